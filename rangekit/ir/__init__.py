"""The IR: one graph of hash-consed nodes, what each node means, and the tables that rewrite it."""
