"""The tests of a file, `[[tests]]`: each runs the file's own tasks, workers and supervisor, in a process of its own.

runner test ──▶ reading     which tests there are
                processes   a process and an empty folder for each, side by side
                   └─▶ execution     one test: the file, fed, stubbed, with faults, run to its end
                         stubs, faults     what stands in, what goes wrong
                         comparison        what was expected, what came, the first difference
                results     in words, as JSON, as JUnit's XML
"""
