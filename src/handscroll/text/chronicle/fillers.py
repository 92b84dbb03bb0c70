"""Sentences that say nothing about anybody: weather, markets, rivers, festivals.

Knows how to fill the space between facts with text that a model can't ignore by its shape: thousands of different
sentences from templates with slots. Holds no person, town, trade or event of the answer pools.
"""

import random
import re

SLOTS: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "season": ("spring", "summer", "autumn", "winter", "harvest time", "monsoon"),
        "weather": ("rain", "fog", "snow", "hail", "a warm wind", "a hard frost", "thunder", "bright sunshine"),
        "water": ("river", "lake", "canal", "brook", "marsh", "waterfall", "harbour wall", "reservoir"),
        "land": ("hills", "meadows", "vineyards", "barley fields", "pine woods", "orchards", "cliffs", "moors"),
        "goods": ("apples", "wool", "honey", "iron pots", "dried fish", "spices", "linen", "oak barrels", "lamp oil"),
        "animal": ("geese", "goats", "oxen", "swallows", "foxes", "donkeys", "herons", "hounds"),
        "feast": ("lantern feast", "kite contest", "boat race", "spring fair", "harvest dance", "wine blessing"),
        "thing": ("bridge", "bell tower", "mill wheel", "market hall", "north gate", "stone well", "granary"),
        "look": ("quiet", "golden", "muddy", "crowded", "empty", "silver", "noisy", "green"),
        "number": ("two", "three", "seven", "nine", "twelve", "twenty", "forty", "a hundred"),
    },
    "zh": {
        "season": ("春天", "夏天", "秋天", "冬天", "雨季", "农忙时"),
        "weather": ("细雨", "大雾", "小雪", "冰雹", "暖风", "寒霜", "雷声", "阳光"),
        "water": ("河水", "湖水", "溪水", "江水", "井水", "潮水"),
        "land": ("山坡", "草地", "麦田", "稻田", "松林", "果林", "竹林", "荒原"),
        "goods": ("苹果", "羊毛", "蜂蜜", "铁锅", "咸鱼", "香料", "棉布", "木桶", "灯油"),
        "animal": ("大雁", "山羊", "黄牛", "燕子", "狐狸", "毛驴", "白鹭", "猎犬"),
        "feast": ("灯会", "庙会", "龙舟赛", "花会", "丰收舞", "开酒节"),
        "thing": ("木桥", "钟楼", "水车", "集市", "北门", "石井", "粮仓"),
        "look": ("安静", "金黄", "泥泞", "拥挤", "空荡", "银白", "热闹", "碧绿"),
        "number": ("两", "三", "七", "九", "十二", "二十", "四十", "一百"),
    },
}
TEMPLATES: dict[str, tuple[str, ...]] = {
    "en": (
        "Toward the end of {season} {weather} covered the {land}.",
        "The {water} rose {number} feet and left the {land} {look}.",
        "Traders offered {goods} and {goods} beside the {thing}.",
        "Nobody had repaired the {thing} for {number} years.",
        "Every {season} brought {weather} and {number} carts of {goods}.",
        "Children counted {number} {animal} near the {water}.",
        "The {feast} filled the square around the {thing} with music.",
        "Prices for {goods} doubled because of {weather}.",
        "Beyond the {land} lay a {look} {water}.",
        "Some {animal} crossed the {land} before {weather} came.",
        "The {look} road to the {thing} took {number} hours.",
        "That {season} the {feast} was put off for {number} days.",
        "Old songs mention the {look} {water} and its {animal}.",
        "Smoke drifted over the {land} while {animal} slept.",
    ),
    "zh": (
        "{season}快过去的时候，{weather}笼罩了{land}。",
        "{water}涨了{number}尺，{land}变得一片{look}。",
        "商贩在{thing}旁边叫卖{goods}和{goods}。",
        "那座{thing}已有{number}年没有修过。",
        "每逢{season}，{weather}过后便运来{number}车{goods}。",
        "孩子们在岸边数到{number}只{animal}。",
        "{feast}那晚，{thing}四周满是鼓乐。",
        "因为{weather}，{goods}的价钱翻了一倍。",
        "越过{land}，便是{look}的{water}。",
        "{weather}来临之前，{animal}穿过了{land}。",
        "通往{thing}的路一片{look}，要走{number}个时辰。",
        "那个{season}，{feast}推迟了{number}天。",
        "古老的歌谣唱到{look}的{water}和{animal}。",
        "炊烟飘过{land}，{animal}都睡着了。",
    ),
}


def _compile(lang: str) -> tuple[tuple[tuple[str, tuple[str, ...]], ...], ...]:
    # Each template as (text, slot that follows it) pieces, so that filling it is one join.
    compiled = []
    for template in TEMPLATES[lang]:
        parts = re.split(r"\{(\w+)\}", template)
        slots = [SLOTS[lang][key] for key in parts[1::2]] + [("",)]
        compiled.append(tuple(zip(parts[::2], slots, strict=True)))
    return tuple(compiled)


_COMPILED = {lang: _compile(lang) for lang in TEMPLATES}


def filler(lang: str, rng: random.Random) -> str:
    """One sentence about nobody."""
    if lang not in _COMPILED:
        raise ValueError(f"language is {lang!r}; fillers exist in {', '.join(_COMPILED)}")
    templates = _COMPILED[lang]
    uniform = rng.random
    pieces = templates[int(uniform() * len(templates))]
    sentence = "".join(text + slot[int(uniform() * len(slot))] for text, slot in pieces)
    return sentence[0].upper() + sentence[1:]
