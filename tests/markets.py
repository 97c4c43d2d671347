"""A small market and short training, for checks that run the pipeline many times; flags of `cartwheel run`."""

SMALL_MARKET = (
    *("--simulate.num-users", "600", "--simulate.num-items", "200", "--simulate.bots-per-user", "0.02"),
    *("--als.rank", "16", "--als.num-iterations", "3", "--train-policy.num-updates", "300"),
    *("--train-encoder.num-epochs", "8", "--train-encoder.two-tower-epochs", "2"),
    *("--train-gan.num-epochs", "4", "--train-gan.num-start-epochs", "2", "--train-gan.steps-per-epoch", "10"),
    *("--make-creatives.num-items", "3", "--make-creatives.num-candidates", "8"),
)
