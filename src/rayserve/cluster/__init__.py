"""Ray, and nothing but Ray: the only room that imports it.

    connect.py   find, join or start Ray             actors.py   place, find, call and stop processes
    store.py     small values that outlive a process nodes.py    what the cluster is made of
    pickling.py  code and arguments as bytes         objects.py  values in Ray's object store

Every function here bounds how long it waits, and none lets a Ray exception out: see errors.py.
`import rayserve.cluster` costs nothing; its modules import ray, about a second, when first used.
"""
