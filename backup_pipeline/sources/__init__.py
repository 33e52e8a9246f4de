"""The kinds of sources, a package for each; kinds never import each other."""
