"""The parts of ``python -m queuepool size``: how many connections should a pool have?

``search`` is the search, which knows nothing of databases; ``load`` measures on a server;
``server`` tells what the server allows and what its sessions wait for; ``output`` says and draws
what was found; ``command`` is the command line.
"""
