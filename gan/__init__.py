"""Product pictures by a small conditional GAN, and the adverts composed of them; always labelled as AI-generated."""
