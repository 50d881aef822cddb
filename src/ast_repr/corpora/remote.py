# TEMPORARY, to be replaced by its owner
from collections import namedtuple
Remote = namedtuple("Remote", "url bytes md5")
