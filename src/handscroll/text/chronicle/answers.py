"""What can be true of a person: the pools of places, trades and events, and the dates.

Knows answers only; how a sentence states them is in `relations.py`. Every pool holds at least 50 short entries.
"""

import random
from calendar import monthrange

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
FIRST_YEAR, LAST_YEAR = 1200, 1899


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TOWNS_EN = _words(
    """
    Ashford Bergen Calais Delft Exeter Ferrara Galway Hebron Ithaca Jena Kendal Lucca Malmo Narva Oslo
    Padua Quebec Ravenna Salem Turin Utrecht Verona Windsor Yarmouth Zurich Arles Bruges Cadiz Dover
    Evora Fulda Ghent Harwich Imola Jaffa Krakow Lisbon Mantua Nantes Odessa Perugia Riga Seville Toledo
    Ulm Vienna Whitby York Zadar Antwerp Bologna Corinth Dresden Elba Faro Genoa Hull Inverness Kiel
    Leiden Modena Naples Orkney Pisa Rouen Siena Tartu Uppsala Venice Warsaw
    """
)
TOWNS_ZH = _words(
    """
    青州 云溪 石桥 白塔 临江 杏林 沙河 东湖 南港 北原 西陵 金滩 桃源 梅岭 竹溪 荷塘 雁门 鹿鸣 凤台 虎丘
    龙泉 马驿 羊角 牛首 铜陵 铁山 银川 玉门 珠海 盐城 茶亭 酒泉 米仓 花都 柳州 枫桥 桑园 麻城 兰溪 菊潭
    山阴 海宁 江都 湖口 河间 泉州 井冈 池州 关东 寨前 堡子 营口 镇远 乡宁 村北 里仁 巷南 桥头 渡口 滩头
    岛西 峡江 谷城 峰台
    """
)
TRADES_EN = (
    "baker", "miller", "weaver", "potter", "tailor", "cobbler", "carpenter", "mason", "blacksmith", "goldsmith",
    "glassblower", "fisherman", "shepherd", "beekeeper", "gardener", "brewer", "butcher", "candle maker", "clockmaker",
    "cooper", "dyer", "ferryman", "furrier", "hatter", "herbalist", "innkeeper", "locksmith", "lute maker", "map maker",
    "barber", "miner", "notary", "painter", "paper maker", "pilot", "printer", "rope maker", "saddler", "sail maker",
    "salt trader", "sculptor", "ship builder", "silk merchant", "surgeon", "surveyor", "tanner", "thatcher", "tinker",
    "toy maker", "translator", "violin maker", "wheelwright", "wine merchant", "wood carver", "bell founder",
    "bookbinder", "cheese maker", "cook", "falconer", "lamplighter",
)  # fmt: skip
TRADES_ZH = _words(
    """
    木匠 铁匠 石匠 瓦匠 银匠 铜匠 锡匠 漆匠 皮匠 篾匠 裁缝 厨师 郎中 药商 茶商 盐商 布商 米商 粮商 船夫
    渔夫 樵夫 农夫 车夫 猎户 花匠 画师 琴师 乐师 镖师 塾师 讼师 账房 掌柜 牙人 屠户 更夫 驿卒 捕快 狱卒
    书吏 刻工 染工 织工 窑工 矿工 纸工 绣工 酿酒人 养蜂人 养蚕人 牧羊人 摆渡人 卖油人 磨刀人 制伞人
    制笔人 制墨人 制扇人 造船人 造桥人 说书人
    """
)
EVENT_KINDS_EN = ("Revolt", "Flood", "Siege", "Pilgrimage", "Tournament", "Treaty", "Famine", "Expedition")
EVENT_NAMES_EN = ("Amber", "Salt", "Winter", "Harbour", "Copper", "Lantern", "Raven", "Orchard", "Silver", "Thunder")
EVENT_KINDS_ZH = ("起义", "水患", "之战", "盟会", "远征", "饥荒", "变法", "大典")
EVENT_NAMES_ZH = ("琥珀", "盐泽", "寒冬", "赤旗", "铜鼓", "灯市", "乌鸦", "果园", "银杏", "雷泽")


def _products(names: tuple[str, ...], kinds: tuple[str, ...], joint: str) -> tuple[str, ...]:
    return tuple(f"{name}{joint}{kind}" for name in names for kind in kinds)


TOWNS = {"en": TOWNS_EN, "zh": TOWNS_ZH}
TRADES = {"en": TRADES_EN, "zh": TRADES_ZH}
EVENTS = {
    "en": _products(EVENT_NAMES_EN, EVENT_KINDS_EN, " "),
    "zh": _products(EVENT_NAMES_ZH, EVENT_KINDS_ZH, ""),
}


def draw_date(lang: str, rng: random.Random) -> str:
    """A full date of the chronicle's seven centuries: "3 May 1642", "1642年5月3日"."""
    year = rng.randint(FIRST_YEAR, LAST_YEAR)
    month = rng.randint(1, 12)
    day = rng.randint(1, monthrange(year, month)[1])
    return f"{day} {MONTHS[month - 1]} {year}" if lang == "en" else f"{year}年{month}月{day}日"
