"""English words by which the checker of free texts tells what a mention means."""


def _keys(words: str) -> frozenset[str]:
    """Words as the checker compares them, without apostrophes."""
    return frozenset(words.replace("'", "").split())


NEGATIONS = _keys(
    "not no never without neither nor nothing hardly barely cannot isn't wasn't aren't weren't doesn't don't didn't "
    "can't won't haven't hasn't hadn't ain't"
)
MITIGATORS = frozenset(["only", "just", "merely", "simply", "solely"])  # `not only a comedy` states a comedy
TITLE_CUES = frozenset(
    ["like", "liked", "likes", "love", "loved", "enjoy", "enjoyed", "saw", "seen", "watch", "watched", "after", "of"]
)
ADDRESSES = _keys("you your you've you're you'll you'd yours")
SEEING = frozenset(["seen", "saw", "see", "watched", "watch", "bought", "buy", "had", "rated", "tried"])
# Categories that are also topics: `the war` says what happens, `a war film` says the category.
TOPICS = frozenset(["action", "crime", "crimes", "war", "wars", "romance", "mystery", "adventure", "fantasy", "drama"])
ALWAYS_TOPICS = frozenset(["crimes", "wars"])
BEFORE_TOPICS = frozenset(["the", "his", "her", "their", "its", "this", "that", "world", "civil", "cold", "at", "in"])
PRONOUNS = frozenset(["it", "its", "this", "here"])  # between a seen title and a fact, they turn to the item
KINDS_OF_ITEM = frozenset(
    [
        "film",
        "films",
        "movie",
        "movie",
        "movies",
        "story",
        "stories",
        "picture",
        "flick",
        "tale",
        "epic",
        "title",
        "classic",
    ]
)
# What stands before a time that is none of the item's own release.
SETTINGS = (("set", "in"), ("place", "in"), ("set", "during"), ("sequel",), ("prequel",), ("remake",))
ROLE_CUES = {
    "director": ("directed", "director", "directs"),
    "actor": ("starring", "stars", "star", "actor", "actress", "featuring", "played", "plays"),
    "writer": ("written", "writer", "wrote"),
    "producer": ("produced", "producer"),
}
OTHER_FORMS = {
    "romance": ("romantic",),
    "comedy": ("comedic",),
    "animation": ("animated",),
    "sci-fi": ("science fiction", "scifi"),
    "film-noir": ("noir",),
    "children's": ("children",),
    "documentary": ("docs",),
}
DECADES = ["twenties", "thirties", "forties", "fifties", "sixties", "seventies", "eighties", "nineties"]
ARTICLES = ("the", "a", "an")
