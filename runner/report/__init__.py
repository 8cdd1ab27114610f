"""All that people see of a run: messages, output, the summary."""
