"""The language: Tensors with closed axes and open ranges, and the functions over them. Builds graphs, runs nothing."""
