"""What SQL over the lake shows beside the tables: views, worked out when they are read, so that no job has to keep them."""

# A log says which purchase a return undoes at most by its user and item. So it is matched to one of the same user and item
# before it that is large enough: of the same quantity first, then at the same price, then the latest. No purchase is undone beyond
# its quantity, in the order of the returns; a return that finds none has no purchase_id.
MATCHED_RETURNS = """
WITH returned AS (FROM silver.events SELECT * WHERE event_type = 'return' AND user_key IS NOT NULL),
candidates AS (
    SELECT r.event_id, r.event_time, r.quantity, p.event_id AS purchase_id, p.event_time AS purchase_time,
        p.quantity AS purchase_quantity, count(*) OVER (PARTITION BY r.event_id) AS num_candidates
    FROM returned r JOIN silver.events p USING (user_key, item_id)
    WHERE p.event_type = 'purchase' AND p.event_time <= r.event_time AND p.quantity >= r.quantity
    QUALIFY row_number() OVER (
        PARTITION BY r.event_id
        ORDER BY p.quantity = r.quantity DESC, (p.price = r.price) IS TRUE DESC, p.event_time DESC, p.event_id
    ) = 1
),
fitting AS (
    FROM candidates
    QUALIFY sum(quantity) OVER (PARTITION BY purchase_id ORDER BY event_time, event_id ROWS UNBOUNDED PRECEDING)
        <= purchase_quantity
)
SELECT r.event_id, r.user_key, r.item_id, r.event_time, r.quantity, r.price, r.currency,
    f.purchase_id, f.purchase_time, f.purchase_quantity, coalesce(f.num_candidates, 0) AS num_candidates
FROM returned r LEFT JOIN fitting f USING (event_id)
"""
# Name -> the table that it is of, and its query.
VIEWS = {"silver.matched_returns": ("silver/events", MATCHED_RETURNS)}
