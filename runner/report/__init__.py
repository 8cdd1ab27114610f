"""What people see: messages, output, the summary."""
