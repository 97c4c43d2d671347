"""Spark hands its driver at most 8 MB of results at once, in every Spark job: nothing that grows is gathered there."""

from acceptance import lakes
from acceptance.claims import Claim, run_command
from acceptance.elsewhere import shipped, spark_submit
from lib.lake.lake import Lake
from lib.pipeline import PIPELINE
from rl.market.log_files import LOG_FOLDER
from tests.same import differences

MOST = "8m"  # Spark's default is 1g; it ends a job whose tasks return more to one action
MADE_BEFORE = ("simulate", "ingest")  # a copy of a lake has nothing new for them
LEAST_BYTES = 10 << 20  # on disk, compressed: of a table that a job reads, so that gathering it would show


def check() -> list[Claim]:
    """On a copy of the market's lake every job makes its tables anew, and ingest those of its log in an empty lake."""
    folder, market = shipped(), lakes.market()
    lake, fresh = lakes.copy_of(market, "small_driver"), lakes.empty("small_driver_ingest")
    jobs = [job.name for job in PIPELINE if job.engine == "spark" and job.name not in MADE_BEFORE]
    logs = ["--log.path", str(market / "raw" / LOG_FOLDER), "--log.format", "market"]
    given = {"ingest": ["--lake.path", str(fresh), *logs]}
    given |= {job: ["--lake.path", str(lake)] for job in jobs}
    given["clean"].append("--clean.rebuild=true")
    for job, arguments in given.items():
        submit, *rest = spark_submit(job, "local[2]", arguments)
        run_command([submit, "--conf", f"spark.driver.maxResultSize={MOST}", *rest], cwd=folder)
    held = Lake(str(lake))
    large = {
        table: size
        for table in held.tables()
        if (size := sum(num_bytes for _, num_bytes in held.data_files(table))) >= LEAST_BYTES
    }
    apart = differences(lake, market)
    return [
        Claim(
            f"every Spark job ends well where its driver takes {MOST} of results",
            f"{', '.join(given)}; larger on disk than {LEAST_BYTES >> 20} MiB: "
            + ", ".join(f"{table} {size / 2**20:.0f} MiB" for table, size in large.items()),
            len(large) >= 3,
        ),
        Claim("they leave the same tables", f"different: {'; '.join(apart) or 'none'}", not apart),
    ]
