"""Gold: what models and analysts read."""

from lib.tables.contract import (
    COUNT,
    DATE,
    FLAG,
    INT,
    INTS,
    MONEY,
    REAL,
    TAGS,
    TEXT,
    TEXT_MAP,
    TEXTS,
    TIME,
    TIMES,
    VECTOR,
    VECTORS,
    Column,
    Table,
    required,
)  # fmt: skip

SPLITS = ("train", "valid", "test")
QUESTIONS = ("all", "new")
NEXT = "next"  # the question of visits: what comes next, given the events so far
YOUNG_DAYS = 28  # before a moment, within which an item was first known that counts as new in the shop
AS_OF = required("as_of", TIME, "the row uses only what was known before this time (UTC)")

DAILY = Table(
    name="gold/daily",
    comment="One user, item and UTC date: what the user did with it. Without impressions and bots.",
    version=1,
    columns=(
        required("user_key", TEXT, "keyed pseudonym", personal=True),
        required("item_id", TEXT, "the source's item id"),
        required("event_date", DATE, "the UTC date"),
        required("num_views", COUNT, "views"),
        required("num_carts", COUNT, "carts"),
        required("num_favourites", COUNT, "favourites"),
        required("num_purchases", COUNT, "purchase events (order lines)"),
        required("num_returns", COUNT, "returns"),
        required("num_ratings", COUNT, "ratings"),
        required(
            "weight", REAL, "sum over events of their type's weight, halved per half-life from event to end of date"
        ),
        required("quantity", COUNT, "pieces bought; a purchase without a quantity is one"),
        Column(
            "amount",
            MONEY,
            "sum of quantity x price of purchases, in the shop's currency; null where one has a price without a rate",
        ),
        required("first_at", TIME, "the first event"),
        required("last_at", TIME, "the last event"),
        Column("last_cart_at", TIME, "the last cart"),
        Column("last_purchase_at", TIME, "the last purchase"),
    ),
    key=("user_key", "item_id", "event_date"),
    partition_by=("event_date",),
)

USER_DAYS = Table(
    name="gold/user_days",
    comment="One user and UTC date: sessions, impressions, prices and hours. Without bots.",
    version=1,
    columns=(
        required("user_key", TEXT, "keyed pseudonym", personal=True),
        required("event_date", DATE, "the UTC date"),
        required("first_event_at", TIME, "the first event"),
        required("last_event_at", TIME, "the last event"),
        Column("last_action_at", TIME, "the last action (see gold/user_profiles.active_hours)"),
        Column("last_timed_at", TIME, "the last action whose clock tells the hour"),
        required("num_impressions", COUNT, "impressions"),
        required("num_sessions", COUNT, "sessions that began on this date"),
        required("num_clicked_requests", COUNT, "distinct requests of which something was clicked on this date"),
        required("hours", INTS, "hour (UTC) of each action whose clock tells it, ascending"),
        required("hour_sin", REAL, "sum over these of the sine of the time of day as an angle"),
        required("hour_cos", REAL, "sum over these of its cosine"),
        required("bought_prices", MONEY, "sum of the prices of purchases, in the shop's currency"),
        required("num_bought_prices", COUNT, "purchases with such a price"),
        required("prices", MONEY, "sum of the prices of actions, in the shop's currency"),
        required("num_prices", COUNT, "actions with such a price"),
        required("has_unconverted_purchase", FLAG, "whether a purchase has a price without a rate"),
        required("has_unconverted", FLAG, "whether an action has a price without a rate"),
    ),
    key=("user_key", "event_date"),
    partition_by=("event_date",),
)

ITEM_DAYS = Table(
    name="gold/item_days",
    comment="One item and UTC date: what happened to it, by known users and by nobody. Without bots.",
    version=1,
    columns=(
        required("item_id", TEXT, "the source's item id"),
        required("event_date", DATE, "the UTC date"),
        required("num_impressions", COUNT, "impressions"),
        required("num_touches", COUNT, "events other than impressions"),
        required("num_views", COUNT, "views"),
        required("num_clicks", COUNT, "views that answer an impression"),
        required("num_carts", COUNT, "carts"),
        required("num_purchases", COUNT, "purchase events"),
        required("num_returns", COUNT, "returns"),
        required("first_seen_at", TIME, "the first event"),
        Column("last_priced_at", TIME, "the last event with a price in the shop's currency"),
        Column("last_price", MONEY, "that price; of several at that moment the largest"),
    ),
    key=("item_id", "event_date"),
    partition_by=("event_date",),
)

USER_PROFILES = Table(
    name="gold/user_profiles",
    comment="One user as of one time: recency, frequency, spend, rates, active hours, interest tags. Without bots.",
    version=2,
    columns=(
        required("user_key", TEXT, "keyed pseudonym", personal=True),
        AS_OF,
        required("first_event_at", TIME, "the user's first event"),
        required("last_event_at", TIME, "the user's last event before as_of"),
        required("recency_days", REAL, "days from the last event to as_of"),
        required("tenure_days", REAL, "days from the first event to as_of"),
        required("num_events", COUNT, "events other than impressions"),
        required("num_sessions", COUNT, "sessions"),
        required("num_active_days", COUNT, "days with an event"),
        required("num_views", COUNT, "views"),
        required("num_carts", COUNT, "carts"),
        required("num_purchases", COUNT, "purchase events (order lines)"),
        required("num_returns", COUNT, "returns"),
        required("num_items", COUNT, "distinct items"),
        Column(
            "spend",
            MONEY,
            "sum of quantity x price of purchases, in the shop's currency (the mapping's rates convert); null where one "
            "has a price without a rate",
        ),
        Column(
            "mean_price",
            REAL,
            "mean price of the purchases, else of all actions (see active_hours), in the shop's currency; null as spend",
        ),
        Column("cart_rate", REAL, "carts per view; null without views"),
        Column("purchase_rate", REAL, "purchases per view; null without views"),
        Column("click_rate", REAL, "clicked share of impressions; null without impressions"),
        Column(
            "favourite_hour", INT, "hour of day (UTC) with the most actions, 0..23; null where the clock is the day"
        ),
        Column(
            "active_hours",
            VECTOR,
            "share of actions in each hour of day (UTC), 24 numbers; impressions and returns are not actions; null where the "
            "clock is the day",
        ),
        Column("favourite_category", TEXT, "the category tag with the most weight; of equal ones the coarser"),
        Column("interest_tags", TAGS, "category=<path> and brand=<name> with weights that sum to 1, heaviest first"),
    ),
    key=("user_key", "as_of"),
)

ITEM_PROFILES = Table(
    name="gold/item_profiles",
    comment="One item as of one time: exposure, rates smoothed towards the shop's, price position, novelty.",
    version=1,
    columns=(
        required("item_id", TEXT, "the source's item id"),
        AS_OF,
        required("num_impressions", COUNT, "impressions"),
        required("num_views", COUNT, "views"),
        required("num_carts", COUNT, "carts"),
        required("num_purchases", COUNT, "purchase events"),
        required("num_returns", COUNT, "returns"),
        required("num_buyers", COUNT, "distinct known users who bought"),
        required("num_users", COUNT, "distinct known users with an event other than an impression"),
        Column("click_rate", REAL, "clicks per impression, smoothed; null where the log has no impressions"),
        Column("purchase_rate", REAL, "purchases per view, smoothed; null where the log has no views"),
        Column(
            "price",
            MONEY,
            "last price seen before as_of, else the catalogue's; in the shop's currency, others converted",
        ),
        Column("price_position", REAL, "share of the items in its category that cost less, 0..1"),
        required("first_seen_at", TIME, "its first event"),
        required("age_days", REAL, "days from the first event to as_of"),
        required("novelty", REAL, "-log2((num_users + 1) / (known users of the shop + 1))"),
        required(
            "popularity_rank", COUNT, "1 for the item with the most buyers; ties by users, then events, then item_id"
        ),
    ),
    key=("item_id", "as_of"),
)

EVENT_WEIGHTS = "cartwheel.eventWeights"

INTERACTIONS = Table(
    name="gold/interactions",
    comment="One user-item pair at one moment: what was known before any as_of is the sum of its rows before then.",
    version=3,
    columns=(
        required("user_key", TEXT, "keyed pseudonym", personal=True),
        required("item_id", TEXT, "the source's item id"),
        required("event_time", TIME, "when it happened, UTC"),
        required("event_date", DATE, "the UTC date of event_time"),
        required("split", TEXT, "train before valid_from, valid before test_from, test from then on"),
        required("weight", REAL, "sum over events of the weight that the settings give their type"),
        required("count", COUNT, "events other than impressions"),
        required("num_relevant", COUNT, "events of the relevant type (purchases, or what the mapping names)"),
    ),
    key=("user_key", "item_id", "event_time"),
    checks={"known_split": "split IN ('train', 'valid', 'test')"},
    partition_by=("event_date",),
    properties={EVENT_WEIGHTS: "what an event of each type weighs, as JSON; others weigh nothing"},
)

SESSIONS = Table(
    name="gold/sessions",
    comment="One visit: what somebody did with which items, in order. Without bots, impressions and returns.",
    version=1,
    columns=(
        required("session_id", TEXT, "the session_id of silver/events"),
        Column("user_key", TEXT, "keyed pseudonym; null where the log names no user", personal=True),
        required("event_date", DATE, "the UTC date of its first event"),
        required(
            "split", TEXT, "of its first event: train before valid_from, valid before test_from, test from then on"
        ),
        required("started_at", TIME, "its first event"),
        required("ended_at", TIME, "its last event"),
        required("num_events", COUNT, "its events"),
        required("items", TEXTS, "the item of each event, in order; of one moment, in the order of the log"),
        required("event_types", TEXTS, "the type of each event"),
        required("event_times", TIMES, "when each event happened, UTC"),
    ),
    key=("session_id",),
    checks={"known_split": "split IN ('train', 'valid', 'test')", "has_events": "num_events >= 1"},
    partition_by=("event_date",),
)

EXAMPLES = Table(
    name="gold/examples",
    comment="One user as of one time: features from before as_of, label from the window after it.",
    version=1,
    columns=(
        required("user_key", TEXT, "keyed pseudonym", personal=True),
        AS_OF,
        required("split", TEXT, "train, valid or test; each has its own as_of"),
        required("features", VECTOR, "scaled to 0..1 with the bounds of gold/scaling, in the order of its positions"),
        Column(
            "label",
            INT,
            "1 if the user purchased (or did what the mapping names) in the label window, else 0; null if the log ends before the window does",
        ),
    ),
    key=("user_key", "as_of"),
    checks={
        "label_is_binary": "label IS NULL OR label IN (0, 1)",
        "known_split": "split IN ('train', 'valid', 'test')",
    },
    partition_by=("split",),
)

SCALING = Table(
    name="gold/scaling",
    comment="Bounds of each feature of gold/examples, fitted on the train split alone.",
    version=1,
    columns=(
        required("feature", TEXT, "the feature's name"),
        AS_OF,
        required("position", INT, "index in gold/examples.features, from 0"),
        required("min", REAL, "value that is scaled to 0"),
        required("max", REAL, "value that is scaled to 1"),
        required("num_clipped", COUNT, "values of valid and test outside the bounds, which were clipped"),
    ),
    key=("feature", "as_of"),
)

VECTORS_TABLE = Table(
    name="gold/vectors",
    comment="One vector of one model version; the score of a user and an item is their dot product.",
    version=1,
    columns=(
        required("model", TEXT, "als, two_tower, sequence, encoder, content (of items alone)"),
        required("version", TEXT, "the model's version: its run's id"),
        required("kind", TEXT, "user or item"),
        required("id", TEXT, "user_key or item_id", personal=True),
        required("values", VECTOR, "the vector"),
        AS_OF,
    ),
    key=("model", "version", "kind", "id"),
    checks={"known_kind": "kind IN ('user', 'item')"},
    partition_by=("model", "kind"),
)

PROPENSITY_TO_BUY = Table(
    name="gold/propensity_to_buy",
    comment="One user as of one time: how likely a purchase is in the label window after it, and what it is worth.",
    version=1,
    columns=(
        required("user_key", TEXT, "keyed pseudonym", personal=True),
        AS_OF,
        required(
            "probability",
            REAL,
            "that the user purchases (or does what the mapping names) in the window after as_of; calibrated, 0..1",
        ),
        required("decile", INT, "from 1, the most likely: fewer than this many tenths of the users are more likely"),
        Column(
            "expected_spend",
            MONEY,
            "probability x the user's mean spend on a day with a purchase, else the shop's, in the shop's currency; null in a "
            "log without prices, or where the mapping names something other than purchases",
        ),
        required("model", TEXT, "the model that serves: encoder, logistic_regression or boosted_trees"),
        required("version", TEXT, "its version: its run's id"),
    ),
    key=("user_key", "as_of"),
    checks={
        "probability_in_range": "probability >= 0 AND probability <= 1",
        "decile_in_range": "decile >= 1 AND decile <= 10",
        "spend_not_negative": "expected_spend IS NULL OR expected_spend >= 0",
    },
)

CANDIDATES = Table(
    name="gold/candidates",
    comment="One item that a retriever proposes for a user; the ranker orders them.",
    version=1,
    columns=(
        AS_OF,
        required("user_key", TEXT, "keyed pseudonym", personal=True),
        required("item_id", TEXT, "the source's item id"),
        required(
            "source",
            TEXT,
            "own: what the user had before; of what the user did not have: popular (buyers of 28 days), popular_in_category "
            "(the same in the categories of the user), ease, ease_recent (of a "
            "history that halves in 60 days), als, two_tower, sequence, content",
        ),
        required("score", REAL, "the retriever's own score; of own, how often the user bought it"),
        required("rank", INT, "the retriever's, from 1"),
    ),
    key=("as_of", "user_key", "item_id", "source"),
    checks={"rank_from_one": "rank >= 1"},
    partition_by=("source",),
)

RECOMMENDATIONS = Table(
    name="gold/recommendations",
    comment="One ranked item for one user, by one strategy; no strategy falls back to another.",
    version=1,
    columns=(
        AS_OF,
        required(
            "strategy",
            TEXT,
            "popularity, rebuy, ease, als, two_tower, sequence, content; ranked: the ranker's order of all that these propose; "
            "ranked_without_rules, if rules are set",
        ),
        required("question", TEXT, "all: every item; new: items the user had not interacted with before as_of"),
        required("user_key", TEXT, "keyed pseudonym", personal=True),
        required("rank", INT, "from 1"),
        required("item_id", TEXT, "the source's item id"),
        required("score", REAL, "the strategy's own score; comparable within a strategy only"),
        required("reason", TEXT, "why this item, in readable words"),
        Column("model", TEXT, "the model behind it; null for counting strategies"),
        Column("version", TEXT, "that model's version"),
    ),
    key=("as_of", "strategy", "question", "user_key", "rank"),
    checks={"rank_from_one": "rank >= 1", "known_question": "question IN ('all', 'new')"},
    partition_by=("strategy",),
)

RANKING_METRICS = Table(
    name="gold/ranking_metrics",
    comment="One metric of one strategy: mean over users with a bootstrap interval; users without a list score zero.",
    version=1,
    columns=(
        AS_OF,
        required("split", TEXT, "valid or test"),
        required(
            "question",
            TEXT,
            "all or new: what users want in the window; next: what follows the events of a visit so far, for each event after "
            "the first of every visit that begins in the window",
        ),
        required("strategy", TEXT, "the strategy; for a paired difference, the one that is compared"),
        required(
            "metric",
            TEXT,
            "ndcg, recall, precision, map, hit_rate, mrr; <metric>_minus_popularity, and ndcg_minus_<strategy> between every two; "
            "of what lists show: coverage (share of items in a list), novelty (mean -log2 of the share of users who knew the item), "
            "head_exposure (share of places for the tenth of items that most users knew), diversity (a list's categories by its items), "
            "miscalibration (divergence of the list's categories from those of the history); "
            "where impressions have a position: examination (of strategy impressions: how often a position is looked at, of the first), "
            "item_recall and item_dcg (means over wanted items of being in the list, and of 1 / log2(rank + 1)), and both with _unbiased "
            "(an item that was found through an impression counts by the inverse of its position's examination, at most 10)",
        ),
        required("k", INT, "length of the list; of examination the position"),
        required(
            "segment",
            TEXT,
            "all, returning (had interacted before as_of) or unseen users, light and heavy ones (below 10 items, and from 10 on); "
            f"new_items: only items first known in the {YOUNG_DAYS} days before as_of, or not known yet, are relevant, of users who want one; "
            "of next also other_item (what came is not in the "
            "visit so far) and repeat (it is)",
        ),
        Column(
            "value", REAL, "the metric, 0..1 but for novelty and miscalibration (bits); null where the segment is empty"
        ),
        Column(
            "low",
            REAL,
            "lower end of the 95 % bootstrap interval over users (of next: over visits); null for what lists show",
        ),
        Column("high", REAL, "upper end"),
        required(
            "num_users",
            COUNT,
            "users with a relevant item in the window; of next: events that were asked for; of examination: impressions",
        ),
        required("num_without_list", COUNT, "those among them for whom the strategy had no list; they score 0"),
        required("seed", COUNT, "seed of the bootstrap"),
    ),
    key=("as_of", "split", "question", "strategy", "metric", "k", "segment"),
)

MODEL_METRICS = Table(
    name="gold/model_metrics",
    comment="One metric of one model version on one split.",
    version=1,
    columns=(
        required("model", TEXT, "the model"),
        required("version", TEXT, "its version: its run's id"),
        required("split", TEXT, "train, valid or test"),
        required(
            "metric",
            TEXT,
            "auc, pr_auc, log_loss, ece, ...; <metric>_minus_<model> for a paired difference; of reliability "
            "predicted_bin_01 (mean probability of a tenth of the examples) and observed_bin_01 (share of positives), to 10",
        ),
        Column("value", REAL, "the metric"),
        Column("low", REAL, "lower end of the 95 % bootstrap interval"),
        Column("high", REAL, "upper end"),
        required("n", COUNT, "examples"),
    ),
    key=("model", "version", "split", "metric"),
    partition_by=("model",),
)

REWARD_WEIGHTS = "cartwheel.rewardWeights"
AS_OF_PROPERTY = "cartwheel.asOf"

DECISIONS = Table(
    name="gold/decisions",
    comment="One logged decision of an episode: what was known, what could be shown, what was shown, and the reward.",
    version=1,
    columns=(
        required("episode_id", TEXT, "the session, or the impression in a log without users"),
        required("step", INT, "from 0"),
        Column("user_key", TEXT, "keyed pseudonym; null where the log names no user", personal=True),
        required("event_time", TIME, "when the decision was made"),
        required("split", TEXT, "train, valid or test (from as_of on), by the episode's first decision"),
        required("state", VECTOR, "features of the user and the session so far"),
        required("candidates", TEXTS, "item ids that could be shown"),
        required("candidate_features", VECTORS, "one vector a candidate, in the same order"),
        required("action", INT, "index of the shown candidate"),
        required("propensity", REAL, "probability of that candidate under the logging policy, given the candidates"),
        required("propensity_source", TEXT, "logged, or estimated"),
        required("policy", TEXT, "the logging policy"),
        required(
            "reward",
            REAL,
            "reward of the reactions to this item under this request, with the settings' weights of click, cart and "
            "purchase; before as_of, of those before as_of",
        ),
        Column("next_state", VECTOR, "state of the next decision; null at the last"),
        required(
            "is_last",
            FLAG,
            "the episode ends here; false on all rows where it was still open at as_of or the log's end",
        ),
        Column("context", TEXT_MAP, "further features of the moment in the log"),
    ),
    key=("episode_id", "step"),
    checks={"propensity_in_range": "propensity > 0 AND propensity <= 1", "step_from_zero": "step >= 0"},
    partition_by=("split",),
    properties={
        REWARD_WEIGHTS: "weights of a click, a cart and a purchase in `reward`, as a JSON object",
        AS_OF_PROPERTY: "where the test split begins, an ISO time in UTC",
    },
)

POLICY_VALUES = Table(
    name="gold/policy_values",
    comment="One estimate of the value of one policy on one set of logged decisions.",
    version=1,
    columns=(
        required("policy", TEXT, "logging, dqn, tabular, ..."),
        required(
            "dataset",
            TEXT,
            "decisions used: all, valid or test; test/<policy>: the episodes that this logging policy decided alone",
        ),
        required(
            "version", TEXT, "the policy's version: its run's id; on valid as learned on train, on test as served"
        ),
        required(
            "estimator",
            TEXT,
            "mean_return, dr (doubly robust), true (simulated), or pdis (per-decision self-normalised importance "
            "sampling: a diagnostic, too sure of itself for a learned policy)",
        ),
        required("value", REAL, "mean discounted return per episode"),
        Column("low", REAL, "lower end of the 95 % interval, bootstrap over users; null for a diagnostic"),
        Column("high", REAL, "upper end"),
        Column("effective_sample_size", REAL, "of the importance weights, in episodes"),
        required("num_episodes", COUNT, "episodes in the set"),
        Column("num_rewarded", COUNT, "decisions with a reward above zero"),
        required("verdict", TEXT, "promote, keep_logging, reference, or diagnostic"),
        required("reason", TEXT, "why, with the numbers"),
        Column("incumbent", TEXT, "the logging policy that a verdict compares with; null without a verdict"),
    ),
    key=("policy", "dataset", "version", "estimator"),
)

CREATIVES = Table(
    name="gold/creatives",
    comment="One generated image, or an advert made with one; always labelled as AI-generated.",
    version=1,
    columns=(
        required("creative_id", TEXT, "hash of item, kind, generator version and seed"),
        required("item_id", TEXT, "the product it shows"),
        required("kind", TEXT, "image, or advert_<width>x<height>"),
        required("uri", TEXT, "path of the file below the lake"),
        required("sha256", TEXT, "of the file"),
        required("generator_version", TEXT, "run id of the generator"),
        required("seed", COUNT, "seed of its noise"),
        Column("quality", REAL, "0..1, the discriminator-free score of gan/metrics/quality; null where none applies"),
        required("provenance", TEXT_MAP, "how it was made: model, training data, date, synthetic = true"),
        required("status", TEXT, "accepted or refused"),
        Column("reason", TEXT, "why refused"),
    ),
    key=("creative_id",),
    checks={"known_status": "status IN ('accepted', 'refused')"},
)

EXPERIMENTS = Table(
    name="gold/experiments",
    comment="One metric of one pair of arms, by user, with interval and verdict.",
    version=1,
    columns=(
        required("experiment", TEXT, "the experiment"),
        required("arm", TEXT, "the arm"),
        required("control", TEXT, "the arm it is compared with"),
        required("metric", TEXT, "ctr, conversion, revenue_per_user (net of returns), satisfaction"),
        Column("arm_value", REAL, "the metric in the arm"),
        Column("control_value", REAL, "the metric in the control"),
        Column("effect", REAL, "arm minus control"),
        Column("low", REAL, "lower end of the effect's 95 % interval, not corrected"),
        Column("high", REAL, "upper end"),
        Column("p", REAL, "two-sided p value"),
        Column(
            "p_adjusted",
            REAL,
            "p corrected by Holm for the number of comparisons: of the primary metric that of the arms, of the others that "
            "of all arms and other metrics; the verdict goes by it",
        ),
        Column("is_primary", FLAG, "whether this metric decides on the experiment"),
        required("num_arm", COUNT, "users (or impressions, where the log names no user) in the arm"),
        required("num_control", COUNT, "the same in the control"),
        Column("sample_ratio_p", REAL, "p value of the sample-ratio check"),
        required(
            "verdict",
            TEXT,
            "better, worse, undecided, running (before the planned end), or invalid (sample-ratio mismatch)",
        ),
        required("reason", TEXT, "why, with the numbers"),
        Column("notes", TEXT, "of the whole experiment: what was left out, and what was taken for granted"),
    ),
    key=("experiment", "arm", "control", "metric"),
)

DRIFT = Table(
    name="gold/drift",
    comment="One measure of what a release answers from and of what comes of it, as the release was made and as of a later time.",
    version=1,
    columns=(
        required("release", TEXT, "the release that served: its run's id"),
        required("released_as_of", TIME, "the time up to which the release used the log"),
        required("as_of", TIME, "the time up to which what is now used the log"),
        required(
            "kind",
            TEXT,
            "feature or score (of candidates, by the release's retrievers and ranker), events (since the release, and in as long a time "
            "before it), reward (of impressions since the release, and before it)",
        ),
        required(
            "name",
            TEXT,
            "the feature; score; event_type, category, price, unknown_user, unknown_item; click or purchase, of one policy "
            "click/<policy>",
        ),
        Column("reference", REAL, "mean of what was known then; null of categories, or where nothing was known"),
        Column("now", REAL, "the same now"),
        Column("missing_reference_frac", REAL, "share of unknown values then, 0..1; null of rewards"),
        Column("missing_now_frac", REAL, "the same now"),
        Column(
            "statistic",
            REAL,
            "Kolmogorov and Smirnov's distance, 0..1; of categories the total variation distance; of a reward the number of changes that "
            "ADWIN found since the release; of one policy's null",
        ),
        Column(
            "psi", REAL, "population stability index over tenths of what was then, or over categories; null of rewards"
        ),
        Column("psi_by_chance", REAL, "what it would be on average if users changed sides: no drift"),
        Column("effect", REAL, "of rewards: now minus reference"),
        Column(
            "low",
            REAL,
            "lower end of the effect's 95 % interval, over users, not corrected",
        ),
        Column("high", REAL, "upper end"),
        Column("p", REAL, "p value by users, who change sides; of rewards by the delta method"),
        Column(
            "p_adjusted",
            REAL,
            "p corrected by Benjamini and Hochberg for the measures of candidates, of events, or of policies' rewards",
        ),
        required("num_reference", COUNT, "users then; where the log names none, events or requests"),
        required("num_now", COUNT, "the same now"),
        required("is_drifted", FLAG, "whether it moved further than chance and than the settings allow"),
        required("reason", TEXT, "why, with the numbers"),
    ),
    key=("release", "as_of", "kind", "name"),
    checks={"known_kind": "kind IN ('feature', 'score', 'events', 'reward')"},
)

TABLES = (
    DAILY,
    USER_DAYS,
    ITEM_DAYS,
    USER_PROFILES,
    ITEM_PROFILES,
    INTERACTIONS,
    SESSIONS,
    EXAMPLES,
    SCALING,
    VECTORS_TABLE,
    PROPENSITY_TO_BUY,
    CANDIDATES,
    RECOMMENDATIONS,
    RANKING_METRICS,
    MODEL_METRICS,
    DECISIONS,
    POLICY_VALUES,
    CREATIVES,
    EXPERIMENTS,
    DRIFT,
)
