"""Programs that a model wrote, tested from another process.

Only plain values pass between the two: a call by the tests runs in the program's process, and its
result comes back as data. So nothing that a program does to its own process, such as leaving or
patching it, makes a test pass. This does not protect against code that attacks the machine.

Both processes are Python without site settings (`-I`) and import nothing heavy.
"""
