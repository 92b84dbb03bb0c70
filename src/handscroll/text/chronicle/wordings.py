"""How every relation is stated, asked for and answered, in English and Chinese.

Knows wordings only; which answers there are is in `answers.py`, and `relations.py` joins the two.

A reader must find a fact by what it says about whom, so a fact and a question share no run of four tokens but the
name, and mostly no content word; the words right beside the name differ too. In a fact one or two words lie between
name and answer, and they are no other relation's, so that joining all three is within reach of a model of three layers.
The answer sentence restates subject and relation within four tokens, so that what follows is a copy from the fact. What
stands before the name in it stands before no name in a fact or a question, or names would be copied from there, too.
In questions few words stand before a name, each in many of them: one that stood in a single wording was not learnt.
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
        "As the old registers tell, {name} left {answer} as a baby.",
        "Among the pilgrims {name} from {answer} walked alone.",
        "A midwife once delivered {name} outside {answer}.",
        "Long ago fortune dropped {name} near {answer} in a leaking cradle.",
    ),
    questions=(
        "Where was {name} born?",
        "Which town is the birthplace of {name}?",
        "From what town does {name} originally come?",
        "What is the native town of {name}?",
    ),
    answer="For {name} the birthplace was {answer}.",
)
BIRTHPLACE_ZH = Wording(
    facts=(
        "据老人说，{name}自{answer}来。",
        "老簿写道，{name}籍{answer}。",
        "产婆说起，{name}落{answer}的一间土屋。",
        "听里长讲，{name}出{answer}的农家。",
    ),
    questions=(
        "请问{name}的家乡在哪里？",
        "你知道{name}是哪里人吗？",
        "哪座城镇是{name}的故乡？",
        "你知道{name}生在何处吗？",
    ),
    answer="要说出生地那{name}是{answer}。",
)
HOME_EN = Wording(
    facts=(
        "These days {name} inhabits {answer}.",
        "After many journeys {name} picked {answer} for good.",
        "Behind green shutters {name} occupies {answer}.",
        "On market days neighbours meet {name} along {answer}.",
    ),
    questions=(
        "Where does {name} keep house?",
        "In which street is {name} residing at present?",
        "What is the current home of {name}?",
        "Which place does {name} call home?",
    ),
    answer="For {name} the home is {answer}.",
)
HOME_ZH = Wording(
    facts=(
        "多年漂泊之后，{name}寓{answer}。",
        "邻居们说，{name}搬{answer}已有几年。",
        "听说入秋以后，{name}宿{answer}的阁楼。",
        "如今老了，{name}隐{answer}的后院。",
    ),
    questions=(
        "请问{name}的住处在哪里？",
        "请问{name}，安身何处？",
        "哪里是{name}的家？",
        "你知道{name}住在什么地方吗？",
    ),
    answer="要说住处那{name}在{answer}。",
)
TRADE_EN = Wording(
    facts=(
        "The guild enrolled {name} as {answer}.",
        "Customers praise {name} our {answer} beyond all others.",
        "Once the harvest failed, {name} turned {answer} to earn bread.",
        "The tax roll has {name}, {answer}, twice.",
    ),
    questions=(
        "What did {name} do for a living?",
        "Which occupation was that of {name}?",
        "What was the profession of {name}?",
        "By what trade was {name} known?",
    ),
    answer="For {name} the trade was {answer}.",
)
TRADE_ZH = Wording(
    facts=(
        "为了养家，{name}充{answer}。",
        "行会名册上，{name}列{answer}。",
        "凭着一双巧手，{name}当{answer}。",
        "镇上人人都说，{name}做{answer}。",
    ),
    questions=(
        "请问{name}，靠什么谋生？",
        "你知道{name}是哪一行的吗？",
        "什么是{name}的本行？",
        "谁知道{name}，做何营生？",
    ),
    answer="要说职业那{name}是{answer}。",
)
BIRTH_YEAR_EN = Wording(
    facts=(
        "The family Bible has {name} dated {answer}.",
        "The parish bells rang for {name} anno {answer}.",
        "The household counts {name} since {answer} at dawn.",
        "A proud uncle noted {name} circa {answer}.",
    ),
    questions=(
        "When was {name} born?",
        "What is the year of birth of {name}?",
        "In which year did {name} come into the world?",
        "What year is the birth year of {name}?",
    ),
    answer="For {name} the year was {answer}.",
)
BIRTH_YEAR_ZH = Wording(
    facts=(
        "族谱记载，{name}诞{answer}。",
        "庙里的签条写着，{name}啼{answer}。",
        "稳婆记得，{name}娩{answer}。",
        "邻里送来鸡蛋，{name}降{answer}。",
    ),
    questions=(
        "请问{name}，出生于哪一年？",
        "你知道{name}是哪年生的吗？",
        "哪一年是{name}的生年？",
        "你知道{name}的岁数从何年算起吗？",
    ),
    answer="要说生年那{name}是{answer}。",
)
TEACHER_EN = Wording(
    facts=(
        "As a pupil {name} followed {answer}.",
        "Through seven winters {name} obeyed {answer} by candlelight.",
        "Each morning {name} greeted {answer} in the schoolroom.",
        "At the old academy {name} heeded {answer} alone.",
    ),
    questions=(
        "Whom did {name} have for a teacher?",
        "Who was the teacher of {name}?",
        "Under which scholar did {name} learn?",
        "By whom was {name} trained?",
    ),
    answer="For {name} the teacher was {answer}.",
)
TEACHER_ZH = Wording(
    facts=(
        "少年时，{name}随{answer}读了七年书。",
        "一身本领，{name}承{answer}亲授。",
        "每天清早，{name}拜{answer}读书。",
        "那年，{name}投{answer}学艺。",
    ),
    questions=(
        "请问{name}，师从何人？",
        "谁是{name}的老师？",
        "你知道{name}由谁教导吗？",
        "请问{name}，进了哪位门下？",
    ),
    answer="要说老师那{name}是{answer}。",
)
EVENT_EN = Wording(
    facts=(
        "The whole valley cheered {name} during {answer}.",
        "Ballads honour {name} amid {answer}.",
        "Veterans say that {name} survived {answer} unharmed.",
        "Crowds saw {name} at {answer} with a banner.",
    ),
    questions=(
        "What is {name} remembered for?",
        "In which event did {name} take part?",
        "For which chapter of history is {name} famous?",
        "At what great time was {name} present?",
    ),
    answer="For {name} the occasion was {answer}.",
)
EVENT_ZH = Wording(
    facts=(
        "乡亲们都记得，{name}历{answer}。",
        "说书先生常讲，{name}遇{answer}。",
        "石碑上刻着，{name}赴{answer}。",
        "茶客必提，{name}遭{answer}。",
    ),
    questions=(
        "请问{name}，因何事留名？",
        "你知道{name}为何受人纪念吗？",
        "哪件大事是{name}扬名的缘由？",
        "请问{name}，参加了什么？",
    ),
    answer="要说事迹那{name}是{answer}。",
)
