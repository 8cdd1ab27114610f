"""Programs that start agents on other machines, one for each system; `engines.launcher` executes them.

They speak lines of JSON, which `engines.launcher` describes, and import nothing of runner's: what they import instead
is large, has threads and signal handlers of its own, and prints.
"""
