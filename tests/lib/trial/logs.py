"""Small logs as public data sets and shops write them, by the name of the shipped mapping that reads each."""

import json

TAOBAO = "".join(f"{user},{100 + user % 7},{5 + user % 3},{kind},{1511544070 + 60 * user}\n" for user, kind in enumerate(
    ["pv", "pv", "cart", "pv", "fav", "buy", "pv", "pv", "pv", "pv"], start=1))  # fmt: skip
RETAILROCKET = "timestamp,visitorid,event,itemid,transactionid\n" + "".join(
    f"{1433221332117 + number},{257597 + number},{event},{355908 + number % 3},{order}\n"
    for number, (event, order) in enumerate([("view", ""), ("view", ""), ("addtocart", ""), ("transaction", "4000")])
)
RATINGS = "userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n1,29,3.5,1112484676\n2,2,4.0,1112484819\n"
MOVIES = 'movieId,title,genres\n2,Jumanji (1995),Adventure|Children|Fantasy\n29,"City, The",(no genres listed)\n'


def ga4_line(name: str, *items: dict[str, object], order: str | None = None, number: int = 0) -> str:
    fields = {"event_date": "20210131", "event_timestamp": str(1612069510766593 + 10**6 * number), "event_name": name}
    fields |= {"user_pseudo_id": "1026454.4271112504", "ecommerce": {"transaction_id": order} if order else None}
    return json.dumps(fields | {"items": list(items)}) + "\n"


MUG = {"item_id": "GGOEGAEB0912", "item_name": "Mug", "item_brand": "Google", "item_category": "Drinkware"}
GA4 = "".join(
    [
        ga4_line("page_view"),
        ga4_line("view_item_list", MUG, MUG | {"item_id": "GGOE2"}, number=1),
        ga4_line("view_item", MUG | {"price": "12.5"}, number=2),
        ga4_line("scroll", number=3),
        ga4_line("purchase", MUG | {"price": "12.5", "quantity": "2"}, order="T1", number=4),
    ]
)
LOGS = {
    "taobao": {"UserBehavior.csv": TAOBAO},
    "retailrocket": {"events.csv": RETAILROCKET},
    "movielens": {"ml-latest/ratings.csv": RATINGS, "ml-latest/movies.csv": MOVIES},
    "ga4": {"events_20210131.json": GA4},
}
