"""What belongs together in a text, at the three levels of ERNIE (arXiv 1904.09223, section 3.2): for masks.

    finder = UnitFinder(read_names(Path("names.txt")))
    marks_T = token_marks(finder.marks("Anna Smith lives in an old house."), offsets)

The basic level is a Chinese character or a word of another script, the second a phrase, the third an entity. Entities
and phrases don't overlap, and both are made of whole basic units.

`marks.py` is how units are written down, a byte a character or a token; `chinese.py` asks jieba, `english.py` has
rules, `names.py` reads the entities that a user names. Who hides which units is the objective's business.
"""

from handscroll.text.units.finder import UnitFinder
from handscroll.text.units.marks import LEVELS, Mark, token_marks
from handscroll.text.units.names import Names, read_names

__all__ = ["LEVELS", "Mark", "Names", "UnitFinder", "read_names", "token_marks"]
