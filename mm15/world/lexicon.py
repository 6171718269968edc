"""The words of the world: shapes, colours, short English words, labels of forms and screens, and its invented facts.

Everything here is a constant. Level 1 takes prefixes of these lists, so their order matters: appending is safe,
reordering changes every sample.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SHAPES = _words("circle square triangle star cross ring heart diamond")
ICONS = _words("house tree moon fish cup bolt flag hexagon")

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (218, 38, 38),
    "green": (38, 158, 58),
    "blue": (40, 80, 222),
    "yellow": (240, 206, 26),
    "orange": (246, 134, 22),
    "purple": (136, 46, 180),
    "pink": (250, 140, 192),
    "black": (24, 24, 24),
    "brown": (128, 78, 38),
    "gray": (132, 132, 132),
}

NUMBERS = _words(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty"""
)

WORDS = _words(
    """tea map sun dog cat red box pen cup hat key car bus egg ice jam net oil pig rat sea toy van web zoo ant bag bed
    bee cow arm book tree fish bird milk moon rain salt ship song star time tool wind wood yard ball cake desk door farm
    fire game gold hand home lamp leaf lion nest park road
    rock room root sand seed shoe shop snow soap soup tent town tray tube vase wall well wolf wool zero back band bank
    barn bath bell belt bike boat bone boot bowl bush card cave city clay coal coat coin cook corn crow cube deer dish
    dove duck dust east edge face fact film flag flat fork frog gate gift girl goat grid hall harp hill hole hook horn
    idea iron jazz jump kite knee lake land line list loaf lock mail mask meal mile mint mist nail name neck news nine
    noon north note nose olive open oven page pair palm path pear pine pink plan plum pond pool port post pump queen
    quiz rice ring rope rose sail sale seal seat shed silk sink skin sock soil spot stem step stone storm table tail
    tape taxi team tide tile tiger tower train tulip uncle valley violin wagon water wheel winter yellow zebra apple
    bread chair cloud dream earth field glass house juice knife lemon mouse night ocean paper queue river sheep
    tooth"""
)
EASY_WORDS = WORDS[:64]

FORM_LABELS = _words("total age room tax code year fee cost page seat size hours weight height points score order gate")
FORM_NAME_LABELS = _words("name guest owner")
FORM_CITY_LABELS = _words("city from to")
FORM_DATE_LABELS = _words("date due born")
FORM_NAMES = _words(
    "anna ben carla david emma felix gina hugo iris jack kate leo mia noah olga paul rosa sam tina vera"
)
FORM_CITIES = _words("rome oslo paris lima cairo delhi tokyo quito bern kiev")

BUTTONS = _words(
    """Save Open Close Help Send Back Next Edit Copy Stop Play Home Print Search Delete Share Login Cancel Reply Buy
    Upload Start Submit Filter"""
)
FIELDS = _words("Name Email City Phone Title Street Country Date Price Note")
CHECKS = _words("Sound Email News Wifi Music Dark Sync Maps Photos Backup")
APPS = _words("Mail Photos Music Notes Files Maps Clock Shop Books Chat")

NONSENSE = _words("dax blicket wug toma fep kiki zup gorp lorp mib nalo pim")


def _table(values: str) -> dict[str, str]:
    return dict(zip(SHAPES + ICONS, _words(values), strict=True))


# The invented world, in the order of SHAPES + ICONS. It is told only in text and asked about in text and in pictures.
PRICES = _table(
    """three seven five nine two eight four six
    ten one twelve eleven thirteen fourteen fifteen sixteen"""
)
HOMES = _table(
    """sea forest desert sky city cave garden palace
    valley swamp jungle lake castle meadow tower river"""
)
FOODS = _table(
    """rice bread corn soup cheese honey plums nuts
    beans eggs cake pears figs milk grapes olives"""
)
FRIENDS = _table(
    """star ring heart square diamond circle cross triangle
    fish moon house bolt flag tree hexagon cup"""
)
