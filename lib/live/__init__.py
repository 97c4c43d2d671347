"""The live log and what runs beside it: a Kafka of this machine, the replay of a log into it, and all live parts as one stack."""
