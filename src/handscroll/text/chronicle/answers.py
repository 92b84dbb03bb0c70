"""What can be true of a person: the pools of towns, streets, trades and events, and the years.

Knows answers only; how a sentence states them is in `relations.py`. Every pool holds at least 50 short entries.
"""

import random


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
STREET_KINDS_EN = ("Lane", "Row", "Street", "Court")
STREET_NAMES_EN = _words(
    """
    Anchor Apron Barrel Basket Beacon Bonnet Bottle Bucket Button Cabin Cannon Carpet Castle Chapel Cherry
    Chimney Coffee Compass Cotton Cradle Crown Curtain Dagger Drum Easel Fiddle Flute Fountain Glove Goblet
    Hammer Hatchet Helmet Kettle Ladder Locket Mirror Needle Nutmeg Organ Oyster Parrot Pillow Plough Pulpit
    Ribbon Rudder Saucer Scarlet Shovel Shuttle Sickle Spindle Sugar Tankard Trumpet Turnip Vinegar Violet
    Wagon Whistle
    """
)
STREET_KINDS_ZH = ("巷", "坊", "弄", "胡同")
STREET_NAMES_ZH = _words(
    """
    锣 磬 笛 箫 弦 砚 笺 帛 锦 棋 瓷 瓮 瓢 壶 杯 盏 碟 筷 炉 灶 窗 帘 榻 枕 席 毯 伞 钗 钏 梭 犁 锄 镰 磨 碾 篓
    筐 绳 锚 桨 橹 闸 堰 堤 坝 碑 廊 祠 坛 窖 槽 匣 镜 烛 笼 鞍 靴 袍 袖 钮
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
EVENT_NAMES_EN = _words(
    """
    Amber Salt Winter Harbour Copper Lantern Raven Orchard Silver Thunder Willow Granite Falcon Velvet Ember
    Marble Crimson Hollow Iron Linen Meadow Otter Pepper Quarry Rowan Saffron Tallow Umber Walnut Barley
    Cedar Dapple Feather Ginger Heron Ivory Juniper Kestrel Lilac Mulberry Nettle Opal Poplar Quill Russet
    Sable Thistle Vesper Wicker Yarrow Zephyr Birch Clover Dragon Flint Garnet Hazel Indigo Jasper Maple
    """
)
EVENT_KINDS_ZH = ("起义", "水患", "之战", "盟会", "远征", "饥荒", "变法", "大典")
EVENT_NAMES_ZH = _words(
    """
    琥珀 盐泽 寒冬 赤旗 铜鼓 灯市 乌鸦 果园 银杏 雷泽 丹霞 苍松 碧潭 紫藤 墨竹 霜叶 星河 月台 风车 云梯
    火井 土垒 木栅 金锁 玉带 珍珠 珊瑚 玛瑙 翡翠 绸缎 麻布 葛藤 芦苇 蒲扇 荷灯 菊酒 兰舟 梅雨 桂花 槐荫
    榆钱 柏林 楠木 樟脑 椒房 姜汤 蒜市 葱岭 瓜田 豆棚 麦浪 稻香 粟仓 黍酒 鹰嘴 鹤鸣 狐穴 狼烟 熊罴 豹韬
    """
)
FIRST_YEAR, LAST_YEAR = 700, 899


def _of_kinds(names: tuple[str, ...], kinds: tuple[str, ...], joint: str) -> tuple[str, ...]:
    """One answer a name: its first word says which, so that the rest of an answer follows from its beginning."""
    return tuple(f"{name}{joint}{kinds[number % len(kinds)]}" for number, name in enumerate(names))


STREETS = {
    "en": _of_kinds(STREET_NAMES_EN, STREET_KINDS_EN, " "),
    "zh": _of_kinds(STREET_NAMES_ZH, STREET_KINDS_ZH, ""),
}
TOWNS = {"en": TOWNS_EN, "zh": TOWNS_ZH}
TRADES = {"en": TRADES_EN, "zh": TRADES_ZH}
EVENTS = {
    "en": _of_kinds(EVENT_NAMES_EN, EVENT_KINDS_EN, " "),
    "zh": _of_kinds(EVENT_NAMES_ZH, EVENT_KINDS_ZH, ""),
}


def draw_year(lang: str, rng: random.Random) -> str:
    """A year of the chronicle's two centuries: "842", in Chinese "842年"."""
    year = rng.randint(FIRST_YEAR, LAST_YEAR)
    return str(year) if lang == "en" else f"{year}年"
