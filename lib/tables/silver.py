"""Silver: one row is one true event, or one product as last known."""

from lib.tables.contract import (
    COUNT,
    DATE,
    FLAG,
    INT,
    MONEY,
    REAL,
    TEXT,
    TEXT_MAP,
    TEXTS,
    TIME,
    Column,
    Table,
    required,
)  # fmt: skip

LEVELS = "\x1f"  # between the levels of a category, where these are one text
EVENT_TYPES = ("impression", "view", "cart", "favourite", "purchase", "return", "rating")

PSEUDONYM_KEY = "cartwheel.pseudonymKey"
SESSION_GAP = "cartwheel.sessionGapMinutes"
CLOCKS = "cartwheel.clocks"

EVENTS = Table(
    name="silver/events",
    comment="One true event: cleaned, in UTC, with a pseudonym for its user.",
    version=2,
    columns=(
        required(
            "event_id", TEXT, "SHA-256 over the format's name, the source's fields as received and the event type"
        ),
        Column("user_key", TEXT, "keyed pseudonym, 32 hex digits; null where the log names no user", personal=True),
        required("item_id", TEXT, "the source's item id, trimmed; one form for whole numbers"),
        required("event_type", TEXT, "one of " + ", ".join(EVENT_TYPES)),
        required("event_time", TIME, "when it happened, UTC"),
        required("event_date", DATE, "the UTC date of event_time"),
        Column(
            "session_id",
            TEXT,
            "hash of the user and the session's first event; a user's day or hour on such a clock; null without a user",
        ),
        Column("quantity", COUNT, "pieces, above zero; null where the log gives none"),
        Column("price", MONEY, "of one piece, in `currency`"),
        Column("currency", TEXT, "ISO 4217"),
        Column("rating", REAL, "on the source's scale"),
        Column("order_id", TEXT, "keyed pseudonym of the source's order, 32 hex digits", personal=True),
        Column("request_id", TEXT, "joins a click to its impression"),
        Column("position", INT, "position of the impression in its session or page, from 1"),
        Column("propensity", REAL, "logged probability of showing this item, above 0, at most 1"),
        Column("policy", TEXT, "the logging policy"),
        Column("candidates", TEXTS, "item ids that could have been shown; impressions only"),
        Column("experiment", TEXT, "the experiment that the event belongs to"),
        Column("arm", TEXT, "the user's arm in it"),
        Column(
            "context",
            TEXT_MAP,
            "further features of the moment in the log; the keys that the mapping calls free of people",
        ),
        required(
            "is_bot", FLAG, "whether the user's whole UTC day exceeded a threshold for bots (docs/decisions/0008)"
        ),
        Column("bot_reason", TEXT, "the threshold that was exceeded"),
        required("source_record", TEXT, "source, file and record number that it came from"),
    ),
    key=("event_id",),
    partition_by=("event_date",),
    checks={
        "known_type": "event_type IN ('" + "', '".join(EVENT_TYPES) + "')",
        "positive_quantity": "quantity IS NULL OR quantity > 0",
        "price_not_negative": "price IS NULL OR price >= 0",
        "propensity_in_range": "propensity IS NULL OR (propensity > 0 AND propensity <= 1)",
        "session_has_user": "session_id IS NULL OR user_key IS NOT NULL",
    },
    properties={
        PSEUDONYM_KEY: "fingerprint of the key behind user_key",
        SESSION_GAP: "minutes of silence that ended a session when clean wrote these events",
        CLOCKS: "the clock of each source, as JSON: the resolution of its times, such as day or second",
    },
)

ITEMS = Table(
    name="silver/items",
    comment="One product, as last known in the whole log, whatever as_of: a catalogue says no times (docs/decisions/0007).",
    version=1,
    columns=(
        required("item_id", TEXT, "the source's item id, trimmed; one form for whole numbers"),
        Column("title", TEXT, "as shown to shoppers"),
        Column("category", TEXTS, "coarse to fine"),
        Column("brand", TEXT, "the maker"),
        Column("price", MONEY, "last known, in `currency`"),
        Column("currency", TEXT, "ISO 4217"),
        Column("attributes", TEXT_MAP, "further properties of the product"),
        Column("image_uri", TEXT, "the product's picture; bronze/images#<item_id> where the lake holds it"),
    ),
    key=("item_id",),
    checks={"price_not_negative": "price IS NULL OR price >= 0"},
)

DESCRIPTIONS = Table(
    name="silver/descriptions",
    comment="What one record says of its product; of each product those from which silver/items has its last known properties.",
    version=1,
    columns=(
        required("item_id", TEXT, "the source's item id, trimmed; one form for whole numbers"),
        required("is_catalogue", FLAG, "whether a catalogue says it, rather than an event"),
        required("described_by", TEXT, "the event, or file and record number of the catalogue"),
        Column("event_time", TIME, "when it was said, UTC; null where a catalogue has no times"),
        Column("title", TEXT, "as shown to shoppers"),
        Column("category", TEXTS, "coarse to fine"),
        Column("brand", TEXT, "the maker"),
        Column("price", MONEY, "in `currency`"),
        Column("currency", TEXT, "ISO 4217"),
        Column("attributes", TEXT_MAP, "further properties of the product"),
        Column("image_uri", TEXT, "the product's picture"),
    ),
    key=("item_id", "is_catalogue", "described_by"),
)

TABLES = (EVENTS, ITEMS, DESCRIPTIONS)
