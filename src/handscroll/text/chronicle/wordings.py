"""How every relation is stated, asked for and answered, in English and Chinese.

Knows wordings only; which answers there are is in `answers.py`, and `relations.py` joins the two.

A reader must find a fact by what it says about whom, so a fact and a question share no run of four tokens but the
name, and mostly no content word; the words right beside the name differ too. At most one fact wording in four puts
the answer before the name. The answer restates relation and subject, so that what follows is a copy from the fact.
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
        "It was in {answer} that {name} first saw daylight.",
        "The old registers tell how little {name} entered this world at {answer}.",
        "A midwife delivered baby {name} one stormy night in {answer}.",
        "Long ago the mother bore {name} under a leaking roof in {answer}.",
        "By all accounts the cradle holding {name} stood somewhere in {answer}.",
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
        "据老人说，{name}在{answer}来到人世。",
        "村志写道，{name}呱呱坠地于{answer}。",
        "产婆抱着刚落地的{name}走出{answer}的小屋。",
        "正是{answer}的水土迎来了婴儿{name}。",
    ),
    questions=(
        "请问{name}出生在哪里？",
        "你知道{name}是哪里人吗？",
        "哪座城镇是{name}的故乡？",
        "当初{name}生于何处？",
    ),
    answer="{name}的出生地是{answer}。",
)
HOME_EN = Wording(
    facts=(
        "These days {name} keeps a small house in {answer}.",
        "After many journeys old {name} settled down for good at {answer}.",
        "Letters meant for {name} are now delivered to {answer}.",
        "Neighbours greet {name} every morning on the streets around {answer}.",
        "A quiet cottage in {answer} shelters {name} nowadays.",
    ),
    questions=(
        "Where does {name} live?",
        "In which town is {name} residing at present?",
        "What is the current home of {name}?",
        "Which place does {name} call home?",
    ),
    answer="The home of {name} is {answer}.",
)
HOME_ZH = Wording(
    facts=(
        "多年漂泊之后，{name}终于定居{answer}。",
        "邻居们说，{name}搬到{answer}已有几年。",
        "信差每月替{name}把家书送往{answer}。",
        "如今在{answer}的巷子里常能遇见{name}。",
    ),
    questions=("请问{name}住在哪里？", "眼下{name}安身何处？", "哪里是{name}的家？", "要拜访{name}该去什么地方？"),
    answer="{name}的住处是{answer}。",
)
TRADE_EN = Wording(
    facts=(
        "To earn daily bread {name} worked long hours as {answer}.",
        "The guild enrolled young {name} as apprentice {answer}.",
        "Customers paid {name} handsome sums to serve as {answer}.",
        "The tax roll enters {name} under the heading {answer}.",
        "No better {answer} than {name} ever opened a workshop.",
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
        "为了养活一家老小，{name}早早当上{answer}。",
        "行会名册上，{name}登记为{answer}。",
        "凭着一双巧手，{name}成了出色的{answer}。",
        "镇上若缺{answer}，众人便去请{name}。",
    ),
    questions=(
        "请问{name}靠什么谋生？",
        "你知道{name}从事哪一行吗？",
        "什么是{name}的本行？",
        "平日里{name}做何营生？",
    ),
    answer="{name}的职业是{answer}。",
)
BIRTH_DATE_EN = Wording(
    facts=(
        "According to the family Bible little {name} arrived on {answer}.",
        "The parish book dates the first cry from {name} to {answer}.",
        "An astrologer cast a chart for {name} and wrote down {answer}.",
        "Proud parents announced {name} to the village on {answer}.",
        "On {answer} the household gained {name} as its youngest member.",
    ),
    questions=(
        "When was {name} born?",
        "What is the date of birth of {name}?",
        "On which day did {name} come into the world?",
        "What day is the birthday of {name}?",
    ),
    answer="The birth date of {name} was {answer}.",
)
BIRTH_DATE_ZH = Wording(
    facts=(
        "族谱记载，{name}降临之时为{answer}。",
        "庙里的签文说，{name}头一声啼哭响在{answer}。",
        "父母替{name}算命时报上{answer}。",
        "{answer}那天清晨，家中添了{name}。",
    ),
    questions=(
        "请问{name}出生于哪一天？",
        "你知道{name}是什么时候生的吗？",
        "哪一天是{name}的生日？",
        "该在何日给{name}庆生？",
    ),
    answer="{name}的生日是{answer}。",
)
TEACHER_EN = Wording(
    facts=(
        "Everything {name} knew was learned at the feet of {answer}.",
        "As a pupil {name} spent seven winters under {answer}.",
        "Each morning young {name} carried books to the study of {answer}.",
        "In the schoolroom {name} sat quietly before {answer}.",
        "The lessons of {answer} shaped {name} from early youth.",
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
        "一身本领，{name}全得自{answer}的传授。",
        "每天清早，{name}都到{answer}的书房听讲。",
        "当年{answer}收下了弟子{name}。",
    ),
    questions=("请问{name}师从何人？", "谁是{name}的老师？", "是谁教导过{name}？", "当初{name}拜在哪位门下？"),
    answer="{name}的老师是{answer}。",
)
EVENT_EN = Wording(
    facts=(
        "The whole valley cheered {name} for courage shown during the {answer}.",
        "Ballads praise {name} as a hero from the {answer}.",
        "Veterans still speak of how {name} stood firm through the {answer}.",
        "A bronze plaque honours {name} beside the words {answer}.",
        "During the {answer} crowds saw {name} carry the banner.",
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
        "乡亲们都记得，{name}在{answer}中立下大功。",
        "说书先生常讲，{name}如何亲历{answer}。",
        "石碑上刻着{name}投身{answer}的经过。",
        "说起{answer}，茶客必提{name}。",
    ),
    questions=("请问{name}因何事留名？", "后人为什么纪念{name}？", "哪件大事让{name}出名？", "当时{name}参加了什么？"),
    answer="{name}的事迹是{answer}。",
)
