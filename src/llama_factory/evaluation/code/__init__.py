"""Programs that a model wrote, judged by tests which run in another process.

Between the two go plain values alone: what the tests call is called in the program's process, and
what comes back is data. So nothing that a program does to its own process, such as leaving it or
patching it, makes a pass. It is no wall against code that attacks the machine.

Both processes are Python without site settings (`-I`) and import nothing heavy.
"""
