"""Whether what a server answers from still fits: features and scores, what is asked for, and what comes of it, then and now."""
