"""The commands, thin: each module is one verb, and what it does lives on the floors below."""
