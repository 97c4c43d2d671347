"""A generator so small that tests train it within seconds."""

from gan.training.loop import TrainOptions

TINY = TrainOptions(
    resolution=32,
    num_classes=2,
    num_epochs=4,
    num_start_epochs=1,
    steps_per_epoch=3,
    batch_size=8,
    latent_dim=6,
    base_channels=4,
    learning_rate_start=4e-3,
    kl_weight=2e-4,
    reconstruction_weight=10.0,
    learning_rate_generator=2e-4,
    learning_rate_discriminator=4e-4,
    beta1=0.0,
    beta2=0.99,
    ema_decay=0.99,
    augmentations=("colour", "translation", "cutout"),
    seed=3,
)
