"""Static views over what the other floors return: text and HTML without scripts, the same every time."""
