"""Keys, values and words that tasks hide: numbers, hexadecimal strings, UUIDs, and words of both languages.

Knows what can be drawn, and that nothing is drawn twice. English words are those that `faker` lists by part of
speech; a key of words is an adjective and a noun, as in RULER (https://arxiv.org/abs/2404.06654).
"""

import random
import uuid
from collections.abc import Collection, Iterator
from functools import cache

from faker.providers.lorem.en_US import Provider as English
from faker.providers.lorem.zh_CN import Provider as Chinese

from handscroll.text.chronicle.answers import TOWNS_ZH, TRADES_ZH

KINDS = ("words", "numbers", "hex", "uuids")
NUMBER_DIGITS = 7
HEX_DIGITS = 32
# So many repetitions in a row mean that the combinations run out.
PATIENCE = 20

ADJECTIVES_ZH = tuple(
    """
    安静 金黄 银白 碧绿 深蓝 火红 雪白 漆黑 古老 崭新 明亮 昏暗 温暖 寒冷 清澈 浑浊 宽阔 狭窄
    高大 矮小 遥远 附近 快乐 忧伤 勇敢
    胆怯 聪明 笨拙 勤劳 懒散 温柔 严厉 坚硬 柔软 光滑 粗糙 甘甜 苦涩 芬芳 新鲜 干燥 潮湿 平坦
    陡峭 神秘 平凡 珍贵 廉价 整齐 凌乱
    热闹 冷清 轻盈 沉重 锋利 圆润 透明 朦胧 灿烂 朴素 华丽 精巧 结实 脆弱 敏捷 迟缓 慷慨 节俭
    谦虚 骄傲 幸运 孤单 忠诚 顽皮 优雅 自由
    """.split()
)
NOUNS_ZH = (
    *"""
    灯塔 钟楼 木桥 石井 粮仓 水车 花园 果园 竹林 松林 草原 沙漠 雪山 冰川 瀑布 溪流 湖泊 海湾
    岛礁 港湾 帆船 马车 风筝 灯笼 雨伞
    蜡烛 铜镜 铁锅 陶罐 茶壶 酒杯 木碗 竹篮 棉被 草鞋 皮帽 丝巾 琵琶 古琴 笛子 锣鼓 棋盘 毛笔
    砚台 画卷 书架 信封 钥匙 铃铛 算盘
    石榴 樱桃 葡萄 苹果 桃子 柿子 核桃 蜂蜜 芝麻 生姜 豆腐 面条 馒头 燕子 白鹭 猎犬 山羊 黄牛
    骏马 狐狸 松鼠 蝴蝶 蜻蜓 青蛙 乌龟
    """.split(),
    *(word for word in (*TOWNS_ZH, *TRADES_ZH) if len(word) == 2),
)


@cache
def single_words(lang: str) -> tuple[str, ...]:
    """Common words of a language, in a fixed order."""
    if lang == "zh":
        return tuple(dict.fromkeys((*Chinese.word_list, *NOUNS_ZH, *ADJECTIVES_ZH)))
    parts = English.parts_of_speech
    words = (*English.word_list, *parts["noun"], *parts["adjective"], *parts["verb"])
    return tuple(dict.fromkeys(word for word in words if word.isascii() and word.isalpha() and word.islower()))


@cache
def _adjectives_and_nouns(lang: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if lang == "zh":
        return ADJECTIVES_ZH, tuple(dict.fromkeys(NOUNS_ZH))
    known = set(single_words("en"))
    adjectives, nouns = (
        tuple(dict.fromkeys(word for word in English.parts_of_speech[part] if word in known))
        for part in ("adjective", "noun")
    )
    return adjectives, nouns


def number(digits: int, rng: random.Random) -> str:
    """A number of so many digits, without a zero in front."""
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


def draw(kind: str, lang: str, rng: random.Random, nouns: int = 1) -> str:
    """One key or value, which may come again. `nouns` follow the adjective of words."""
    if kind == "numbers":
        return number(NUMBER_DIGITS, rng)
    if kind == "hex":
        return f"{rng.getrandbits(4 * HEX_DIGITS):0{HEX_DIGITS}x}"
    if kind == "uuids":
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    adjectives, names = _adjectives_and_nouns(lang)
    return ("" if lang == "zh" else "-").join([rng.choice(adjectives), *(rng.choice(names) for _ in range(nouns))])


def distinct(kind: str, lang: str, rng: random.Random, without: Collection[str] = ()) -> Iterator[str]:
    """Keys or values without end, none twice and none that contains one of `without`. Words grow longer when needed."""
    seen: set[str] = set()
    misses, nouns = 0, 1
    while True:
        drawn = draw(kind, lang, rng, nouns)
        if drawn in seen or any(word in drawn for word in without):
            misses += 1
            nouns += misses % PATIENCE == 0
            continue
        misses = 0
        seen.add(drawn)
        yield drawn


def distinct_words(lang: str, rng: random.Random, without: Collection[str] = ()) -> Iterator[str]:
    """Words without end, none twice and none that contains one of `without`: single ones first, then compounds."""
    words = list(single_words(lang))
    rng.shuffle(words)
    yield from (word for word in words if not any(other in word for other in without))
    yield from distinct("words", lang, rng, without)
