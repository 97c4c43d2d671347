"""The sections about the shop: its shoppers, its products, and the pictures made for them."""

import base64
from pathlib import Path

from lib.report.charts import bar_chart, column_chart
from lib.report.facts import LakeFacts
from lib.report.parts import Grid, Picture, Section, count, decimal, moment, percent, plural, words
from lib.runs import model_registry

NUM_TOP = 10
NUM_ADVERTISED_ITEMS = 4
MAX_PICTURE_BYTES = 2_000_000
MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


def adverts(facts: LakeFacts) -> Section:
    """The generator's sample grid, and adverts made with it."""
    title = "Generated pictures and adverts"
    pictures = _sample_grids(facts) + _advert_pictures(facts)
    tables = []
    if facts.creatives_by_status:
        rows = facts.creatives_by_status
        tables.append(
            Grid(
                "Creatives by outcome",
                ("kind", "status", "reason", "number", "mean quality"),
                [
                    (words(r["kind"]), r["status"], r["reason"] or "", count(r["n"]), decimal(r["mean_quality"], 2))
                    for r in rows
                ],
                num_text_columns=3,
            )
        )
    if not pictures and not tables:
        return Section("adverts", title, missing=facts.why_missing("train_gan", "make_creatives"))
    text = "Every picture here is made by a generator and says so."
    if tables:
        text += f" {creatives_line(facts)}."
    else:
        text += " " + facts.why_missing("make_creatives")
    return Section("adverts", title, text, [], tables, pictures)


def creatives_line(facts: LakeFacts) -> str:
    """How many adverts, and how many of the pictures that they are made with, were accepted and refused."""
    (adverts, refused_adverts), (pictures, refused_pictures) = (
        facts.num_creatives(adverts=kind) for kind in (True, False)
    )
    return (
        f"{plural(adverts, 'advert')} accepted, {count(refused_adverts)} refused; "
        f"{plural(pictures, 'picture')} accepted, {count(refused_pictures)} refused"
    )


def _sample_grids(facts: LakeFacts) -> list[Picture]:
    """The current generator's grid of samples: the newest picture in its folder."""
    model = model_registry.current_model(facts.lake, "gan")
    if model is None:
        return []
    files = sorted(facts.file(model["uri"]).glob("*.png"), key=lambda file: (file.stat().st_mtime, file.name))
    alt = f"Grid of pictures that {model['version']} generated"
    found = [_picture(file, alt, f"Samples of {model['version']}") for file in files[-1:]]
    return [picture for picture in found if picture is not None]


def _advert_pictures(facts: LakeFacts) -> list[Picture]:
    """Every size of the first advertised items' adverts."""
    if not facts.has("gold/creatives"):
        return []
    has_items = facts.has("silver/items")
    rows = facts.rows(
        f"""
        SELECT c.item_id, c.kind, c.uri, {"i.title" if has_items else "NULL"} AS title
        FROM gold.creatives c {"LEFT JOIN silver.items i USING (item_id)" if has_items else ""}
        WHERE c.status = 'accepted' AND c.kind LIKE 'advert%'
        QUALIFY dense_rank() OVER (ORDER BY c.item_id) <= {NUM_ADVERTISED_ITEMS}
        ORDER BY c.kind, c.item_id
        """
    )
    pictures = []
    for row in rows:
        name = row["title"] or f"item {row['item_id']}"
        size = row["kind"].removeprefix("advert_").replace("x", " × ")
        picture = _picture(
            facts.file(row["uri"]), f"Advert for {name}, {size} pixels, marked as AI-generated", f"{name}, {size}"
        )
        pictures += [picture] if picture else []
    return pictures


def _picture(path: Path, alt: str, caption: str) -> Picture | None:
    """The file inlined; None if it is missing, not a picture or too large for a page."""
    media_type = MEDIA_TYPES.get(path.suffix.lower())
    if media_type is None or not path.is_file() or path.stat().st_size > MAX_PICTURE_BYTES:
        return None
    return Picture(f"data:{media_type};base64,{base64.b64encode(path.read_bytes()).decode()}", alt, caption)


def shoppers(facts: LakeFacts) -> Section:
    """Interests, hours and habits of users, aggregated over all of them."""
    title = "Shoppers"
    if not facts.has("gold/user_profiles"):
        return Section("shoppers", title, missing=facts.why_missing("featurize") + _anonymous(facts))
    num_users = facts.counts["gold/user_profiles"]
    charts, tables = [], []
    hours = facts.rows(
        """
        SELECT hour, avg(share) AS share FROM (
            SELECT generate_subscripts(active_hours, 1) - 1 AS hour, unnest(active_hours) AS share FROM gold.user_profiles
        ) GROUP BY hour ORDER BY hour
        """
    )
    if hours:
        charts.append(
            column_chart(
                "Share of a shopper’s actions by hour of day, UTC",
                [f"{row['hour']:02d}" for row in hours],
                [row["share"] for row in hours],
                value_format=".0%",
            )
        )
    tags = facts.rows(
        """
        SELECT tag.tag AS tag, sum(tag.weight) AS weight, count(*) AS num_users FROM (
            SELECT unnest(interest_tags) AS tag FROM gold.user_profiles
        ) GROUP BY ALL ORDER BY weight DESC, tag LIMIT $top
        """,
        {"top": NUM_TOP},
    )
    if tags:
        charts.append(
            bar_chart(
                "Mean weight of interest tags",
                [row["tag"] for row in tags],
                [row["weight"] / num_users for row in tags],
                [percent(row["weight"], num_users) for row in tags],
            )
        )
        tables.append(
            Grid(
                "Interest tags by mean weight",
                ("tag", "mean weight", "users who hold it"),
                [(row["tag"], percent(row["weight"], num_users), count(row["num_users"])) for row in tags],
            )
        )
    columns = ("recency_days", "num_sessions", "num_events", "num_items", "num_purchases", "spend")
    quartiles = facts.rows(
        "SELECT "
        + ", ".join(f"quantile_cont({c}::DOUBLE, [0.25, 0.5, 0.75]) AS {c}" for c in columns)
        + ", count(*) FILTER (num_purchases > 0) AS num_buyers FROM gold.user_profiles"
    )[0]
    tables.append(
        Grid(
            "Users by quartile",
            ("of a user", "lower quartile", "median", "upper quartile"),
            [
                (words(column.removeprefix("num_")), *(decimal(value, 1) for value in quartiles[column] or (None,) * 3))
                for column in columns
            ],
        )
    )
    text = f"{plural(num_users, 'user')} known before {moment(facts.as_of)}; {percent(quartiles['num_buyers'], num_users)} of them bought."
    return Section("shoppers", title, text, charts, tables)


def products(facts: LakeFacts) -> Section:
    """The most bought products."""
    title = "Products"
    if not facts.has("gold/item_profiles"):
        return Section("products", title, missing=facts.why_missing("featurize"))
    has_items = facts.has("silver/items")
    rows = facts.rows(
        f"""
        SELECT p.*, {"coalesce(i.title, p.item_id)" if has_items else "p.item_id"} AS name
        FROM gold.item_profiles p {"LEFT JOIN silver.items i USING (item_id)" if has_items else ""}
        WHERE p.popularity_rank <= $top ORDER BY p.popularity_rank
        """,
        {"top": NUM_TOP},
    )
    top = Grid(
        f"The {len(rows)} most popular",
        ("product", "buyers", "purchases", "views", "click rate", "purchases per view", "price"),
        [
            (
                row["name"],
                count(row["num_buyers"]),
                count(row["num_purchases"]),
                count(row["num_views"]),
                "–" if row["click_rate"] is None else percent(row["click_rate"], 1),
                decimal(row["purchase_rate"]),
                "–" if row["price"] is None else f"{row['price']:,.2f}",
            )
            for row in rows
        ],
    )
    text = f"{plural(facts.counts['gold/item_profiles'], 'product')} seen before {moment(facts.as_of)}. Rates are smoothed towards the shop’s."
    return Section("products", title, text, [], [top])


def _anonymous(facts: LakeFacts) -> str:
    """A note for logs that name no user."""
    named = any(row["num_users"] for row in facts.events_by_type)
    return "" if named or not facts.events_by_type else " This log names no user."
