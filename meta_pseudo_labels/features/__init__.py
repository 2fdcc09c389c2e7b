"""Features of a frozen network as data: computed once for every image, kept on disk."""
