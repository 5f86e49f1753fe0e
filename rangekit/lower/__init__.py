"""Lowering: named pure passes from the traced graph to loop nests. The list is ``pipeline.PASSES``."""
