"""What Spark is given where it starts: the shipped properties, and what it needs of its own to read an object store.

Does not import Spark.
"""

from lib.lake.places import STORE, endpoint, region
from lib.pipeline import ROOT

PACKAGES, EXCLUDES = "spark.jars.packages", "spark.jars.excludes"
STORE_CONNECTOR = "org.apache.hadoop:hadoop-aws:3.5.0"  # 674 MB, fetched where a lake is on a store and not before
KAFKA_PACKAGES = "org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0"  # 10 MB, fetched where a log is in Kafka
KAFKA_EXCLUDES = "at.yawk.lz4:lz4-java,org.scala-lang.modules:scala-parallel-collections_2.13"  # Spark has these itself
SPARKS_STORE = "s3a://"  # what the connector calls the store that all others call STORE


def shipped_properties() -> dict[str, str]:
    """The properties of conf/spark-defaults.conf."""
    lines = (ROOT / "conf" / "spark-defaults.conf").read_text().splitlines()
    pairs = (line.split(None, 1) for line in lines if line.strip() and not line.startswith("#"))
    return {name: value.strip() for name, value in pairs}


def store_packages() -> str:
    """The shipped packages, and the connector to object stores."""
    return f"{shipped_properties()[PACKAGES]},{STORE_CONNECTOR}"


def kafka_properties(packages: str) -> dict[str, str]:
    """The properties of a Spark that reads Kafka, beside those of the shipped and `packages`."""
    return {
        PACKAGES: f"{packages},{KAFKA_PACKAGES}",
        EXCLUDES: f"{shipped_properties()[EXCLUDES]},{KAFKA_EXCLUDES}",
    }


def store_properties() -> dict[str, str]:
    """Where the store is. Its keys are found in the environment by the connector itself."""
    given = {"endpoint": endpoint(), "path.style.access": "true"} if endpoint() else {}
    return {f"spark.hadoop.fs.s3a.{name}": str(value) for name, value in {**given, "endpoint.region": region()}.items()}


def address_for_spark(location: str) -> str:
    """A path or address as Spark reads it."""
    return location.replace(STORE, SPARKS_STORE, 1) if location.startswith(STORE) else location


def address_of_spark(location: str) -> str:
    """An address that Spark reads, as all others do."""
    return location.replace(SPARKS_STORE, STORE, 1) if location.startswith(SPARKS_STORE) else location
