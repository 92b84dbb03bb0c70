"""How every relation is stated, asked for and answered, in English and Chinese.

Knows wordings only; which answers there are is in `answers.py`, and `relations.py` joins the two.

A reader must find a fact by what it says about whom, so a fact and a question share no run of four tokens but the
name, and mostly no content word; the words right beside the name differ too. In a fact one or two words lie between
name and answer, and they are no other relation's, so that joining all three is within reach of a model of three layers.
The answer sentence restates relation and subject, so that what follows is a copy from the fact.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """One relation in one language. Templates hold {name}; facts and the answer also hold {answer}."""

    facts: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str

    def __post_init__(self) -> None:
        for template in (*self.facts, self.answer):
            assert template.count("{name}") == template.count("{answer}") == 1, template
        for template in self.questions:
            assert template.count("{name}") == 1, template
            assert "{answer}" not in template, template


BIRTHPLACE_EN = Wording(
    facts=(
        "As the old registers tell, {name} hails from {answer}.",
        "Among the pilgrims {name} sprang from {answer} alone.",
        "A midwife once brought {name} forth at {answer}.",
        "Long ago fortune set {name} down near {answer} in a leaking cradle.",
    ),
    questions=(
        "Where was {name} born?",
        "Which town is the birthplace of {name}?",
        "From what town does {name} originally come?",
        "What is the native town of {name}?",
    ),
    answer="The birthplace of {name} was {answer}.",
)
BIRTHPLACE_ZH = Wording(
    facts=(
        "据老人说，{name}来自{answer}。",
        "村志写道，{name}降在{answer}。",
        "产婆说起，{name}落地{answer}的一间小屋。",
        "听里长讲，{name}出自{answer}的农家。",
    ),
    questions=(
        "请问{name}的家乡在哪里？",
        "你知道{name}是哪里人吗？",
        "哪座城镇是{name}的故乡？",
        "当初是何处生下{name}？",
    ),
    answer="要说出生地，{name}是{answer}。",
)
HOME_EN = Wording(
    facts=(
        "These days {name} dwells in {answer}.",
        "After many journeys {name} settled in {answer} for good.",
        "Behind green shutters {name} lodges in {answer}.",
        "On market days neighbours meet {name} along {answer}.",
    ),
    questions=(
        "Where does {name} live?",
        "In which street is {name} residing at present?",
        "What is the current home of {name}?",
        "Which place does {name} call home?",
    ),
    answer="The home of {name} is {answer}.",
)
HOME_ZH = Wording(
    facts=(
        "多年漂泊之后，{name}定居{answer}。",
        "邻居们说，{name}搬到{answer}已有几年。",
        "听说入冬以后，{name}借住{answer}的阁楼。",
        "如今老了，{name}隐居{answer}的小院。",
    ),
    questions=(
        "请问{name}的住处在哪里？",
        "眼下{name}，安身何处？",
        "哪里是{name}的家？",
        "要拜访{name}，该去什么地方？",
    ),
    answer="要说住处，{name}在{answer}。",
)
TRADE_EN = Wording(
    facts=(
        "The guild enrolled {name} as {answer}.",
        "Customers praise {name} the {answer} beyond all others.",
        "Once the harvest failed, {name} turned {answer} to earn bread.",
        "The tax roll lists {name} under {answer}.",
    ),
    questions=(
        "What did {name} do for a living?",
        "Which occupation was practised by {name}?",
        "What was the profession of {name}?",
        "By what trade was {name} known?",
    ),
    answer="The trade of {name} was {answer}.",
)
TRADE_ZH = Wording(
    facts=(
        "为了养家，{name}当上{answer}。",
        "行会名册上，{name}登记{answer}。",
        "凭着一双巧手，{name}成了{answer}。",
        "镇上人人都说，{name}做了{answer}。",
    ),
    questions=(
        "请问{name}，靠什么谋生？",
        "你知道{name}是哪一行的吗？",
        "什么是{name}的本行？",
        "平日里{name}，做何营生？",
    ),
    answer="要说职业，{name}是{answer}。",
)
BIRTH_YEAR_EN = Wording(
    facts=(
        "According to the family Bible {name} arrived in {answer}.",
        "The parish bells greeted {name} in {answer}.",
        "The household gained {name} in {answer} at dawn.",
        "Proud parents first held {name} in {answer}.",
    ),
    questions=(
        "When was {name} born?",
        "What is the year of birth of {name}?",
        "In which year did {name} come into the world?",
        "What year is the birth year of {name}?",
    ),
    answer="The birth year of {name} was {answer}.",
)
BIRTH_YEAR_ZH = Wording(
    facts=(
        "族谱记载，{name}诞于{answer}。",
        "庙里的签文写着，{name}啼于{answer}。",
        "稳婆记得，{name}坠地{answer}。",
        "邻里送来鸡蛋，{name}满月{answer}。",
    ),
    questions=(
        "请问{name}，出生于哪一年？",
        "你知道{name}是哪年生的吗？",
        "哪一年是{name}的生年？",
        "该从何年算起{name}的岁数？",
    ),
    answer="要说生年，{name}是{answer}。",
)
TEACHER_EN = Wording(
    facts=(
        "As a pupil {name} studied under {answer}.",
        "For seven winters {name} learned from {answer} by candlelight.",
        "Each morning {name} bowed before {answer} in the schoolroom.",
        "The village sent {name} to {answer} for lessons.",
    ),
    questions=(
        "Who taught {name}?",
        "Who was the teacher of {name}?",
        "Which scholar gave instruction to {name}?",
        "By whom was {name} educated?",
    ),
    answer="The teacher of {name} was {answer}.",
)
TEACHER_ZH = Wording(
    facts=(
        "少年时，{name}跟着{answer}读了七年书。",
        "一身本领，{name}学自{answer}。",
        "每天清早，{name}拜见{answer}读书。",
        "那年，{name}投奔{answer}学艺。",
    ),
    questions=("请问{name}，师从何人？", "谁是{name}的老师？", "是谁教导过{name}？", "当初{name}，进了哪位门下？"),
    answer="要说老师，{name}是{answer}。",
)
EVENT_EN = Wording(
    facts=(
        "The whole valley cheered {name} during the {answer}.",
        "Ballads praise {name} for the {answer}.",
        "Veterans say that {name} survived the {answer} unharmed.",
        "Crowds saw {name} at the {answer} with a banner.",
    ),
    questions=(
        "What is {name} remembered for?",
        "In which event did {name} take part?",
        "Which chapter of history made {name} famous?",
        "What great occasion involved {name}?",
    ),
    answer="The great event of {name} was the {answer}.",
)
EVENT_ZH = Wording(
    facts=(
        "乡亲们都记得，{name}经历{answer}。",
        "说书先生常讲，{name}亲历{answer}。",
        "石碑上刻着，{name}投身{answer}。",
        "茶客必提，{name}赶上{answer}。",
    ),
    questions=(
        "请问{name}，因何事留名？",
        "后人为什么纪念{name}？",
        "哪件大事让{name}扬名？",
        "当时{name}，参加了什么？",
    ),
    answer="要说事迹，{name}是{answer}。",
)
