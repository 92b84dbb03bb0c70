"""What can be true of a person: the pools of towns, streets, trades and events, and the years.

Knows answers only; how a sentence states them is in `relations.py`. Every pool holds at least 50 short entries. An
answer's first word (in Chinese: its first character) is no other answer's, so that the rest follows from it.
"""

import random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TOWNS_EN = _words(
    """
    Ashford Bergen Calais Delft Exeter Ferrara Galway Hebron Ithaca Jena Kendal Lucca Malmo Narva Oslo
    Padua Quebec Ravenna Salem Turin Utrecht Verona Windsor Yarmouth Zurich Arles Bruges Cadiz Dover
    Evora Fulda Ghent Harwich Imola Jaffa Krakow Lisbon Mantua Nantes Odessa Perugia Riga Seville Toledo
    Ulm Vienna Whitby Zadar Antwerp Bologna Corinth Dresden Elba Faro Genoa Hull Inverness Kiel
    Leiden Modena Naples Orkney Pisa Rouen Siena Tartu Uppsala Venice Warsaw
    """
)
TOWNS_ZH = _words(
    """
    青州 沙洲 港口 西陵 滩头 桃源 荷塘 虎丘 铜陵 盐城 桑园 麻城 菊潭 泉州 寨前 堡子 渡口 岛屿 峡谷 徽州 歙县 苏州
    杭州 绍兴 嘉峪 赣州 遵义 曲阜 邯郸 郑州 蚌埠 芜湖 淮安 湘潭 蓬莱 敦煌 哈密 喀什 蜀州 渝州 沧州 滁州 亳州 漳州
    潮州 惠州 梧州 琅琊 诸暨 宜昌 鄂州 宛城 株洲 鹰潭 涿州 漠河 兖州 肥城 胶州 琼崖 泸州 绵竹 梓潼 阆中
    """
)
STREET_NAMES_EN = _words(
    """
    Anchor Apron Barrel Basket Beacon Bonnet Bottle Bucket Button Cabin Cannon Carpet Castle Chapel Cherry
    Chimney Coffee Compass Cotton Candle Crown Curtain Dagger Drum Easel Fiddle Flute Fountain Glove Goblet
    Hammer Hatchet Helmet Kettle Ladder Locket Mirror Needle Nutmeg Organ Oyster Parrot Pillow Plough Pulpit
    Ribbon Rudder Saucer Scarlet Shovel Shuttle Sickle Spindle Sugar Tankard Trumpet Turnip Vinegar Violet
    Wagon Whistle
    """
)
STREET_NAMES_ZH = _words(
    """
    锣 磬 笛 箫 弦 砚 笺 帛 锦 棋 瓷 瓮 瓢 壶 杯 盏 碟 筷 炉 灶 窗 帘 榻 枕 席 毯 伞 钗 钏 梭 犁 锄 镰 磨 碾 篓
    筐 绳 锚 桨 橹 闸 堰 堤 坝 幡 廊 祠 坛 窖 槽 匣 镜 烛 箱 鞍 靴 袍 袖 钮
    """
)
TRADES_EN = _words(
    """
    baker miller weaver potter tailor cobbler carpenter mason blacksmith goldsmith glassblower fisherman shepherd
    beekeeper gardener brewer butcher clockmaker cooper dyer ferryman furrier hatter herbalist innkeeper locksmith
    barber miner notary painter pilot printer saddler sculptor surgeon surveyor tanner thatcher tinker translator
    wheelwright bookbinder cook falconer lamplighter banker courier drover engraver gravedigger grocer huntsman jeweller
    librarian seamstress ploughman porter sailor scribe spinner
    """
)
TRADES_ZH = _words(
    """
    厨师 郎中 船夫 渔夫 樵夫 庄客 骡夫 弓手 画师 箍匠 镖师 塾师 讼师 账房 掌柜 牙人 屠户 驿卒 捕快 狱卒 镌工 染工
    织工 窑工 矿工 纸工 绣工 酿工 裁缝 篾匠 漆匠 皮匠 锡匠 瓦匠 巫医 仵作 巡抚 幕僚 贩夫 轿夫 脚夫 伙计 媒婆 僧人
    尼姑 术士 俳优 戏子 佃户 牧童 侍卫 乞丐 庖丁 伶人 接生 驯兽 采药
    """
)
EVENTS_EN = _words(
    """
    ambushes armistices auctions avalanches banquets blockades bonfires carnivals censuses comets concerts congresses
    conquests coronations crusades debates droughts duels earthquakes eclipses elections embargoes epidemics eruptions
    excavations expeditions famines floods funerals inquests invasions jubilees landslides massacres migrations mutinies
    parades pilgrimages plagues processions raids rebellions regattas revolts riots schisms shipwrecks sieges strikes
    synods tempests tournaments treaties trials truces uprisings voyages weddings whirlwinds
    """
)
EVENTS_ZH = _words(
    """
    塌陷 崩坼 洪灾 旱灾 蝗灾 瘟疫 哗变 盟誓 征讨 饥荒 均田 祭天 触礁 失火 举义 叛乱 政变 迁都 围城 淹田 彗星 即位
    霍乱 联姻 议和 赦免 检阅 殿试 封禅 朝圣 比武 擂台 劫营 剿匪 抗倭 护驾 勤王 屯田 筑渠 铸钟 祈福 飓风 鼠疫 夜袭
    突击 招降 谈判 奏捷 游行 赈济 移民 拓荒 婚典 葬礼 罢市 弹劾 结社 暴动 偷猎 审案
    """
)
FIRST_YEAR, LAST_YEAR = 800, 899

TOWNS = {"en": TOWNS_EN, "zh": TOWNS_ZH}
STREETS = {
    "en": tuple(f"{name} Lane" for name in STREET_NAMES_EN),
    "zh": tuple(f"{name}巷" for name in STREET_NAMES_ZH),
}
TRADES = {"en": TRADES_EN, "zh": TRADES_ZH}
EVENTS = {"en": EVENTS_EN, "zh": EVENTS_ZH}


def draw_year(lang: str, rng: random.Random) -> str:
    """A year of the chronicle's century: "842", in Chinese "842年"."""
    year = rng.randint(FIRST_YEAR, LAST_YEAR)
    return str(year) if lang == "en" else f"{year}年"
