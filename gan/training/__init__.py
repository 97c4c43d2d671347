"""Training a conditional GAN on the catalogue's pictures."""
