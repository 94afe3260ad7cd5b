"""Shapes of statements, URLs, Redis commands and messages: what they are, without the values in them.

Every function here takes text that a job produced and returns text that may be stored: literals, parameters, ids in
paths and keys, and query values are gone. What distinguishes two calls of one shape is given as a hash, so that
distinct parameters can be counted without keeping any. The hashes hold within one process only.

The SQL rules follow pt-fingerprint's (comments, literals, ``IN`` lists, multi-row ``VALUES``, ``LIMIT``), done in a
few passes of regular expressions; the results are cached because jobs repeat their statements.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from jobdoctor.model import Effect

#: Entries of each cache. A job has tens of statements; raw SQL with literals in it makes each text a new one.
CACHE_SIZE: Final = 1024
#: Statements longer than this are fingerprinted again each time, so that the cache stays within some megabytes.
CACHED_CHARS: Final = 4096
#: Fingerprints are cut here: what follows tells nobody anything.
MAX_CHARS: Final = 2000


class SqlShape(NamedTuple):
    """What a statement is. ``literals`` is a hash of the values written in it, 0 when there are none."""

    fingerprint: str
    operation: str
    effect: Effect
    tables: tuple[str, ...]
    literals: int = 0
    items: int = 0  # rows of a VALUES list or elements of an IN list, when more than one
    takes_array: bool = False  # ``= ANY(?)``: a list may come as one parameter


class UrlShape(NamedTuple):
    """``template`` is "GET https://host/orders/{}?page", ``target`` "https://host", ``distinct`` a hash of the URL."""

    template: str
    target: str
    distinct: int


class RedisShape(NamedTuple):
    """``shape`` is "HGET order:{}"; ``keys`` is how many keys the command names."""

    shape: str
    operation: str
    effect: Effect
    distinct: int
    keys: int


class _Cache:
    """A least-recently-used map, bounded. Safe without a lock: each step is one atomic operation of a dict."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any) -> Any:
        return self._entries.get(key)

    def put(self, key: Any, value: Any) -> None:
        entries = self._entries
        entries[key] = value
        if len(entries) > CACHE_SIZE:
            try:
                entries.popitem(last=False)
            except KeyError:  # another thread was faster
                pass


# ----------------------------------------------------------------------------------------------------------------- SQL

# Written so that the parts which keep nothing come first; a quote or comment that never ends runs to the end of the
# text, because guessing where it ends could let a value through.
_STRING_STANDARD = r"'[^']*(?:''[^']*)*(?:'|\Z)"
_STRING_ESCAPED = r"'[^'\\]*(?:(?:''|\\.|\\\Z)[^'\\]*)*(?:'|\Z)"


def _token_pattern(string: str) -> re.Pattern[str]:
    return re.compile(
        r"(?=[-/'\"$.\d%:?@])(?:"  # one look decides for most characters
        r"(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))"
        r"|(?P<literal>"
        r"\$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)"  # dollar quotes
        rf"|(?<=[^\w$][eE]){_STRING_ESCAPED}"
        rf"|{string}"
        r"|(?<![\w$.\"`\]])(?:0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+"
        r"|(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(?![\w$])"
        r"|(?<![\w$.\"`\]])\d\w*"  # whatever else begins with a digit
        r")"
        r'|(?P<quoted>"[^"]*(?:""[^"]*)*(?:"|\Z))'
        r"|(?P<placeholder>%\(\w+\)[sbt]|%[sbt](?!\w)|(?<![:\w]):[A-Za-z_]\w*|:\d+\b|\$\d+|\?\d*|(?<![\w@])[@$][A-Za-z_]\w*))",
        re.DOTALL,
    )


_TOKENS = _token_pattern(_STRING_STANDARD)
_TOKENS_ESCAPED = _token_pattern(_STRING_ESCAPED)
_IDENTIFIER = re.compile(r"[^\W\d][\w$ ]{0,62}\Z")
_COMPARES = re.compile(
    r"(?:[=<>,(+|]|\b(?:like|ilike|in|values|set|between|and|returning|then|else))\s*\Z", re.IGNORECASE
)

_SET = re.compile(r"\bset\Z", re.IGNORECASE)
#: What may stand before a string's opening quote and belongs to it.
_PREFIX = re.compile(r"(?<![\w$])(?:[eEbBxXnNrR]|[uU]&)(?=\?)")
_LIST_OPENS = re.compile(r"(?:\b(?:values?|in)|\)\s*,)\s*\Z", re.IGNORECASE)
_SPACE = re.compile(r"\s+")
_CAST = re.compile(
    r"\?(?:\s?::\s?(?:double precision|character varying|bit varying|[\w.\"]+)(?:\s?\([\d?, ]*\))?"
    r"(?:\s(?:with|without) time zone)?(?:\s?\[[\d?]*\])*)+",
    re.IGNORECASE,
)
_SIGN = re.compile(
    r"([=<>(,*/+]|\b(?:limit|offset|in|like|between|and|or|then|else|when|by|return|select|values))(\s?)[-+]\s?(?=\?)",
    re.IGNORECASE,
)
_CONSTANT = re.compile(r"((?:=|<>|!=)\s?)(?:null|true|false)\b", re.IGNORECASE)
_LISTS = re.compile(r"\b(in\s?)\(\s?(?=[?(])", re.IGNORECASE)
_VALUES = re.compile(r"\bvalues?\s?(?=\()", re.IGNORECASE)
_ARRAY = re.compile(r"\[\s?\?(?:\s?,\s?\?)*\s?\]")
_LIMIT = re.compile(r"\blimit\s\?(?:\s?,\s?\?)", re.IGNORECASE)
_ONLY_VALUES = re.compile(r"[\s?,()]*\Z")
_ANY = re.compile(r"\b(?:any|all|some|unnest)\s?\(\s?\(?\s?\?", re.IGNORECASE)

_ADVISORY = re.compile(r"\bpg_(?:try_)?advisory_\w*lock\w*\s?\(|\b(?:get_lock|release_lock)\s?\(", re.IGNORECASE)
_WRITING_CTE = re.compile(r"\(\s?(insert|update|delete|merge)\s", re.IGNORECASE)
_VERB = re.compile(r"[A-Za-z_]+")
_INTO = re.compile(r"\binto\s(?!outfile|dumpfile|@|:)", re.IGNORECASE)
_TABLE = re.compile(
    r"\b(?:from|join|into|update|table|truncate|copy)\s(?:only\s|table\s|if (?:not )?exists\s)*"
    r"((?:[^\W\d][\w$]*|\"[^\"]+\"|`[^`]+`|\[[^\]?]+\])(?:\s?\.\s?(?:[^\W\d][\w$]*|\"[^\"]+\"|`[^`]+`|\[[^\]?]+\]))*)",
    re.IGNORECASE,
)
_NO_TABLES = frozenset({"select", "set", "lateral", "unnest", "generate_series", "stdin", "stdout", "values", "only"})

_VERBS: Final[tuple[tuple[Effect, str], ...]] = (
    ("read", "SELECT SHOW EXPLAIN VALUES TABLE DESCRIBE DESC FETCH DECLARE PRAGMA"),
    ("write", "INSERT UPDATE DELETE REPLACE MERGE UPSERT TRUNCATE COPY CREATE ALTER DROP GRANT REVOKE REFRESH"),
    ("write", "NOTIFY COMMENT REINDEX VACUUM"),
    ("transaction", "BEGIN START COMMIT ROLLBACK END ABORT SAVEPOINT RELEASE"),
    ("none", "SET RESET USE LISTEN UNLISTEN DISCARD DEALLOCATE PREPARE CLOSE ATTACH DETACH ANALYZE"),
    ("lock", "LOCK UNLOCK"),
)
_EFFECTS: Final[dict[str, Effect]] = {verb: effect for effect, verbs in _VERBS for verb in verbs.split()}

_statements = _Cache()
_normalised = _Cache()


def sql(statement: str | bytes) -> SqlShape:
    """The shape of a statement: no literal and no comment of it survives.

    Text that is no SQL at all gives a shape with operation "" and effect "unknown".
    """
    shape = _statements.get(statement)
    if shape is not None:
        return shape  # type: ignore[no-any-return]
    text = statement.decode("utf-8", "replace") if isinstance(statement, bytes) else str(statement)
    shape = _sql(text)
    if len(text) <= CACHED_CHARS:
        _statements.put(statement, shape)
    return shape


def _sql(text: str) -> SqlShape:
    values: list[str] = []
    flat = _strip(text, values)
    literals = (hash(tuple(values)) or 1) if values else 0
    known: SqlShape | None = _normalised.get(flat)
    if known is None:
        known = _normalise(flat)
        if len(flat) <= CACHED_CHARS:
            _normalised.put(flat, known)
    if not literals:
        return known
    # ``_replace`` would take ten times as long.
    return SqlShape(known[0], known[1], known[2], known[3], literals, known[5], known[6])


def _strip(text: str, values: list[str]) -> str:
    """The text with comments dropped and every value and placeholder as ``?``; the values are appended."""
    pattern = _TOKENS
    if "\\'" in text and _needs_escapes(text):
        pattern = _TOKENS_ESCAPED

    def replace(match: re.Match[str]) -> str:
        kind = match.lastgroup
        if kind == "comment":
            return " "
        if kind == "quoted":
            return _quoted(match, text, values)
        if kind != "placeholder":
            values.append(match.group())
        return "?"

    return _SPACE.sub(" ", pattern.sub(replace, text)).strip(" ;")


def _needs_escapes(text: str) -> bool:
    r"""Whether ``\'`` is an escaped quote here (MySQL), not a backslash before the closing one (everybody else).

    Read the standard way, an escaped quote leaves a word glued to a string's end, or a string that never ends.
    """
    for match in _TOKENS.finditer(text):
        token = match.group()
        if token.endswith("'") and len(token) > 1:
            following = text[match.end() : match.end() + 1]
            if following.isalnum() or following == "_":
                return True
        elif token.startswith("'"):
            return True
    return False


def _quoted(match: re.Match[str], text: str, values: list[str]) -> str:
    """Double quotes hold identifiers, but MySQL and SQLite take them for strings too: keep what can be a name only."""
    token = match.group()
    following = text[match.end() : match.end() + 1]
    if not _IDENTIFIER.match(token[1:-1]) or not token.endswith('"') or len(token) < 2:
        values.append(token)
        return "?"
    preceding = text[max(0, match.start() - 16) : match.start()]
    # A qualified name, or a list of names, is not a value; a bare word that something is compared with may be one.
    if following != "." and not preceding.endswith(".") and _COMPARES.search(preceding):
        before = preceding.rstrip()
        if _SET.search(before) and text[match.end() : match.end() + 4].lstrip().startswith("="):
            return token  # what is set is a column
        if before[-1:] not in {",", "("} or _in_values(text, match.start()):
            values.append(token)
            return "?"
    return token


def _in_values(text: str, position: int) -> bool:
    """Whether the position lies after VALUES or IN, where names do not stand."""
    opened = text.rfind("(", 0, position)
    before = text[max(0, opened - 16) : opened] if opened >= 0 else ""
    # A further row of VALUES stands after the one before it.
    return _LIST_OPENS.search(before) is not None


def _normalise(flat: str) -> SqlShape:
    flat = _CAST.sub("?", _PREFIX.sub("", flat))
    flat = _SIGN.sub(r"\1\2", flat)
    flat = _CONSTANT.sub(r"\1?", flat)
    flat, in_items = _collapse_lists(flat)
    flat, rows = _collapse_values(flat)
    flat = _ARRAY.sub("[?+]", flat)
    flat = _LIMIT.sub("LIMIT ?", flat)
    operation, effect = _classify(flat)
    return SqlShape(
        fingerprint=flat[:MAX_CHARS],
        operation=operation,
        effect=effect,
        tables=_tables(flat),
        items=rows if rows > 1 else in_items if in_items > 1 else 0,
        takes_array=_ANY.search(flat) is not None,
    )


def _collapse_lists(flat: str) -> tuple[str, int]:
    """``IN (?, ?)`` and ``IN ((?, ?), (?, ?))`` to ``IN (?+)``; a sub-select stays as it is."""
    most = 0
    out: list[str] = []
    position = 0
    for match in _LISTS.finditer(flat):
        opened = flat.index("(", match.start() + 2)
        closed = _closing(flat, opened)
        inner = flat[opened + 1 : closed]
        if opened < position or not _ONLY_VALUES.match(inner):
            continue
        out += (flat[position:opened].rstrip(), " (?+)")
        position = closed + 1
        most = max(most, inner.count("(") or inner.count("?"))
    if not out:
        return flat, 0
    return "".join([*out, flat[position:]]), most


def _collapse_values(flat: str) -> tuple[str, int]:
    """Every row of every VALUES list to one ``(?+)``, whatever expressions stand in it."""
    most = 0
    out: list[str] = []
    position = 0
    for match in _VALUES.finditer(flat):
        if match.start() < position:
            continue
        rows = 0
        end = match.end()
        while end < len(flat) and flat[end] == "(":
            end = _closing(flat, end) + 1
            rows += 1
            following = re.compile(r"\s?,\s?(?=\()").match(flat, end)
            if following is None:
                break
            end = following.end()
        if rows == 0 or (rows == 1 and "?" not in flat[match.end() : end]):
            continue  # ON DUPLICATE KEY UPDATE a = VALUES(a)
        out += (flat[position : match.end()].rstrip(), " (?+)")
        position = end
        most = max(most, rows)
    if not out:
        return flat, 0
    return "".join([*out, flat[position:]]), most


def _closing(flat: str, opened: int) -> int:
    """Index of the parenthesis that closes the one at ``opened``, or the last character."""
    depth = 0
    for match in re.compile(r"[()]").finditer(flat, opened):
        depth += 1 if match.group() == "(" else -1
        if depth == 0:
            return match.start()
    return len(flat) - 1


def _classify(flat: str) -> tuple[str, Effect]:
    start = 0
    while start < len(flat) and flat[start] in "( ":
        start += 1
    match = _VERB.match(flat, start)
    verb = match.group().upper() if match else ""
    if verb == "EXPLAIN":
        return verb, "read"
    writing = None
    if verb == "WITH":
        writing = _WRITING_CTE.search(flat)
        verb = _main_verb(flat)
    if verb in {"SELECT", "CALL", "DO", "VALUES"} and _ADVISORY.search(flat):
        return verb, "lock"
    if writing is not None and verb == "SELECT":
        return writing.group(1).upper(), "write"
    if verb == "SELECT" and _INTO.search(flat):
        return verb, "write"
    if verb == "COPY" and re.search(r"\bto\s(?:stdout|program|\?)", flat, re.IGNORECASE):
        return verb, "read"
    if verb == "PREPARE" and re.match(r"prepare\stransaction\b", flat, re.IGNORECASE):
        return verb, "transaction"
    return verb, _EFFECTS.get(verb, "unknown")


def _main_verb(flat: str) -> str:
    """The verb after the common table expressions."""
    depth = 0
    for match in re.finditer(r"[()]|\b(?:select|insert|update|delete|merge|values|table)\b", flat, re.IGNORECASE):
        word = match.group()
        if word == "(":
            depth += 1
        elif word == ")":
            depth -= 1
        elif depth == 0:
            return word.upper()
    return "SELECT"


def _tables(flat: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for match in _TABLE.finditer(flat):
        name = re.sub(r"[\"`\[\] ]", "", match.group(1))
        if name.lower() not in _NO_TABLES:
            found[name] = None
    return tuple(found)


# ---------------------------------------------------------------------------------------------------------- parameters

#: Containers are looked into this deep and this far: a hash need not be perfect to count distinct parameters.
_MAX_DEPTH: Final = 4
_MAX_ITEMS: Final = 1000


def parameters(value: Any) -> int:
    """A hash of the parameters of a call, 0 for none. Never raises, never keeps anything."""
    if not value and not isinstance(value, (int, float, str, bytes)):
        return 0
    try:
        return hash(value) or 1
    except Exception:
        pass
    try:
        return hash(_hashable(value, _MAX_DEPTH)) or 1
    except Exception:
        return 1


def _hashable(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        if depth == 0:
            return len(value)
        return tuple((key, _hashable(item, depth - 1)) for key, item in list(value.items())[:_MAX_ITEMS])
    if isinstance(value, (list, tuple, set, frozenset)):
        if depth == 0:
            return len(value)
        return tuple(_hashable(item, depth - 1) for item in list(value)[:_MAX_ITEMS])
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    try:
        hash(value)
    except Exception:
        # psycopg's Jsonb and the like wrap what cannot be hashed; their address would count each call as distinct.
        inner = getattr(value, "obj", None)
        return _hashable(inner, depth - 1) if inner is not None and depth else type(value).__name__
    return value


# ---------------------------------------------------------------------------------------------- ids in paths and keys

_UUID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_PIECES = re.compile(r"[^\W_]+")
_NUMBERED = re.compile(r"([^\W\d_]{1,24}?)\d+\Z")
_HEX = re.compile(r"[0-9a-fA-F]{8,}\Z")
_REPEATED = re.compile(r"\{\}(?:[-_.~: T]\{\})+")
#: Names with digits that are no ids.
_NAMES: Final = frozenset(
    ("oauth1", "oauth2", "s3", "ec2", "md5", "sha1", "sha256", "sha512", "base64", "utf8", "i18n", "l10n", "k8s", "b2b",
     "b2c", "mp3", "mp4", "http2", "http3", "ipv4", "ipv6", "d3", "e164", "iso8601", "saml2", "web3", "p2p", "x509")
)  # fmt: skip
_VERSION = re.compile(r"v\d{1,2}(?:(?:alpha|beta)\d{0,2})?\Z", re.IGNORECASE)
_PLAIN = re.compile(r"[^\W\d]*(?:[-_.][^\W\d_]+)*\Z")
_PATH_WORD: Final = 40


def _piece(match: re.Match[str]) -> str:
    piece = match.group()
    if piece.isalpha():
        if len(piece) >= 20 and not (piece.islower() or piece.isupper() or piece.istitle()) and _looks_random(piece):
            return "{}"
        return piece
    if piece.lower() in _NAMES or _VERSION.match(piece):
        return piece
    if _HEX.match(piece):
        return "{}"
    numbered = _NUMBERED.match(piece)
    return f"{numbered.group(1)}{{}}" if numbered and not _looks_random(numbered.group(1)) else "{}"


def _looks_random(piece: str) -> bool:
    """Whether case changes so often that it is no name: tokens in base64 do, camelCase does not."""
    changes = sum(1 for a, b in pairwise(piece) if a.islower() and b.isupper())
    return changes * 5 > len(piece)


def _template(segment: str) -> str:
    """One segment of a path or key, with what looks like an id, date, token or address as ``{}``."""
    if segment.isdigit():
        return "{}"
    if segment.islower() and segment.isalpha() and len(segment) <= _PATH_WORD:
        return segment
    if not segment or (len(segment) <= _PATH_WORD and _PLAIN.match(segment) and not segment.isupper()):
        if len(segment) >= 20 and "_" not in segment and "-" not in segment and _looks_random(segment):
            return "{}"
        return segment
    if len(segment) > 2 * _PATH_WORD or not segment.isprintable() or any(c in segment for c in "@ ,;=+$&*()<>\"'"):
        return "{}"
    segment = _UUID.sub("{}", segment)
    segment = "{}".join(_PIECES.sub(_piece, part) for part in segment.split("{}"))
    return _REPEATED.sub("{}", segment)


#: A skeleton has a zero for any digit.
ZEROS: Final = bytes.maketrans(b"123456789", b"000000000")
#: Names as skeletons have them.
_ZEROED: Final = frozenset(name.encode().translate(ZEROS).decode() for name in _NAMES)
#: By a text's zeros: where the digits are that a template keeps.
_kept = _Cache()


def skeleton(text: Any) -> Any:
    """What decides about a path's or key's template: texts of one skeleton have one template. None where there is no
    short way to it.

    A template takes any digit for any other, so a loop over ids has one skeleton where it has a thousand texts; but for
    the digits of versions and of names such as "oauth2", which stay.
    """
    kind = type(text)
    if kind is str:
        try:
            zeros = text.encode().translate(ZEROS)
        except UnicodeEncodeError:
            return None
    elif kind is bytes:
        zeros = text.translate(ZEROS)
    else:
        return None
    places = _kept.get(zeros)
    if places is None:
        if len(zeros) > CACHED_CHARS:
            return None
        places = _kept_places(zeros)
        _kept.put(zeros, places)
    return (zeros, *(text[place] for place in places)) if places else zeros


def _kept_places(zeros: bytes) -> tuple[slice, ...]:
    text = zeros.decode("latin-1")
    return tuple(
        slice(*piece.span())
        for piece in _PIECES.finditer(text)
        if piece.group().lower() in _ZEROED or _VERSION.match(piece.group())
    )


# ----------------------------------------------------------------------------------------------------------------- URL

_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_urls = _Cache()
_origins = _Cache()
_paths = _Cache()


def url(method: str, address: str) -> UrlShape:
    """The shape of a request: ids in the path as ``{}``, query values dropped, keys sorted, no user, no fragment."""
    scheme = address.find("://")
    slash = address.find("/", scheme + 3) if scheme > 0 else -1
    if slash > 0 and "%" not in address:
        origin = address[:slash]
        target = _origins.get(origin)
        if target is None and "?" not in origin and "#" not in origin:
            target = _url("", origin).target
            _origins.put(origin, target)
        path = address[slash:]
        known = skeleton(path)
        if target is not None and known is not None:
            rest = _paths.get(known)
            if rest is None:
                rest = _url("", path).template
                _paths.put(known, rest)
            return UrlShape(f"{method.upper()} {target}{rest[1:]}"[:MAX_CHARS], target, hash((method, address)) or 1)
    key = (method, address)
    shape = _urls.get(key)
    if shape is None:
        shape = _url(method, address)
        if len(address) <= CACHED_CHARS:
            _urls.put(key, shape)
    return shape  # type: ignore[no-any-return]


def _url(method: str, address: str) -> UrlShape:
    rest, _, _ = address.partition("#")
    rest, _, query = rest.partition("?")
    scheme, separator, rest = rest.partition("://")
    if not separator:
        scheme, rest = "", scheme
    netloc, slash, path = rest.partition("/") if separator else ("", "", rest)
    host = netloc.rpartition("@")[2].lower()
    name, colon, port = host.rpartition(":")
    if colon and port == _DEFAULT_PORTS.get(scheme.lower()):
        host = name
    target = f"{scheme.lower()}://{host}" if separator else ""
    segments = "/".join(_template(unquote(segment)) for segment in path.split("/"))
    template = f"{method.upper()} {target}{slash}{segments}"
    if query:
        keys = {_template(unquote(part.partition("=")[0])) for part in query.replace(";", "&").split("&") if part}
        template += "?" + "&".join(sorted(keys))
    return UrlShape(template[:MAX_CHARS], target, hash((method, address)) or 1)


# --------------------------------------------------------------------------------------------------------------- Redis


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_REDIS_READS: Final = _words(
    """GET MGET STRLEN GETRANGE SUBSTR GETBIT BITCOUNT BITPOS EXISTS TTL PTTL EXPIRETIME PEXPIRETIME TYPE KEYS SCAN
    RANDOMKEY DUMP OBJECT MEMORY HGET HMGET HGETALL HKEYS HVALS HLEN HEXISTS HSCAN HSTRLEN HRANDFIELD HTTL LRANGE LLEN
    LINDEX LPOS SMEMBERS SISMEMBER SMISMEMBER SCARD SRANDMEMBER SSCAN SINTER SUNION SDIFF SINTERCARD ZRANGE
    ZRANGEBYSCORE ZRANGEBYLEX ZREVRANGE ZREVRANGEBYSCORE ZREVRANGEBYLEX ZSCORE ZMSCORE ZRANK ZREVRANK ZCARD ZCOUNT
    ZLEXCOUNT ZSCAN ZRANDMEMBER ZINTER ZUNION ZDIFF ZINTERCARD XRANGE XREVRANGE XLEN XREAD XINFO XPENDING PFCOUNT GEOPOS
    GEODIST GEOHASH GEORADIUS_RO GEOSEARCH DBSIZE INFO TIME LASTSAVE EVAL_RO EVALSHA_RO FCALL_RO SORT_RO BITFIELD_RO LCS
    TOUCH"""
)
_REDIS_NONE: Final = _words(
    """PING ECHO AUTH HELLO SELECT CLIENT COMMAND CONFIG SUBSCRIBE PSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE WATCH UNWATCH
    MULTI DISCARD QUIT READONLY READWRITE ASKING WAIT SLOWLOG LATENCY MODULE ACL CLUSTER ROLE SCRIPT RESET MONITOR DEBUG
    PUBSUB"""
)
_REDIS_UNKNOWN: Final = _words("EVAL EVALSHA FCALL EXEC")
_NO_KEY: Final = _REDIS_NONE | _words(
    "SCAN RANDOMKEY DBSIZE INFO TIME LASTSAVE KEYS FLUSHDB FLUSHALL SWAPDB EXEC FUNCTION"
)
_ALL_KEYS: Final = _words(
    """MGET DEL UNLINK EXISTS TOUCH SINTER SUNION SDIFF SINTERSTORE SUNIONSTORE SDIFFSTORE PFCOUNT PFMERGE RENAME
    RENAMENX RPOPLPUSH"""
)
_ALL_BUT_LAST: Final = _words("BLPOP BRPOP BZPOPMIN BZPOPMAX BRPOPLPUSH")
_PAIRS: Final = _words("MSET MSETNX")
#: Commands that say how many keys follow, by the position of that number.
_COUNTED: Final = {
    **dict.fromkeys(_words("EVAL EVALSHA FCALL EVAL_RO EVALSHA_RO FCALL_RO BLMPOP BZMPOP"), 1),
    **dict.fromkeys(_words("ZUNION ZINTER ZDIFF SINTERCARD ZINTERCARD LMPOP ZMPOP"), 0),
}
_SUBCOMMANDS: Final = _words(
    """XINFO XGROUP OBJECT MEMORY BITOP CLIENT CONFIG SCRIPT ACL CLUSTER FUNCTION PUBSUB SLOWLOG LATENCY MODULE COMMAND
    DEBUG"""
)
_SEVERAL_KEYS: Final = _NO_KEY | _ALL_KEYS | _PAIRS | _ALL_BUT_LAST | {"XREAD", "XREADGROUP"}
#: Separators, and the braces of a cluster's hash tag.
_KEY_PARTS = re.compile(r"([:/|#{}])")
_keys = _Cache()


def redis(command: str | bytes, args: Sequence[Any] = ()) -> RedisShape:
    """The shape of a command: its name and the keys it names, with ids in them as ``{}``; no value, field or script."""
    words = (command.decode("ascii", "replace") if isinstance(command, bytes) else str(command)).upper().split()
    operation = words[0] if words else ""
    rest: Sequence[Any] = [*words[1:], *args] if len(words) > 1 else args
    name = operation
    if operation in _SUBCOMMANDS and rest:
        name = f"{operation} {_text(rest[0]).upper()[:24]}"
        rest = rest[1:]
    keys = _redis_keys(operation, rest)
    templates: dict[str, None] = {}
    for key in keys[:100]:
        templates[redis_key(key)] = None
    shape = " ".join([name, *list(templates)[:4]])
    return RedisShape(shape[:MAX_CHARS], name, redis_effect(operation), parameters(tuple(args)), len(keys))


_one_key: dict[str | bytes, bool] = {}


def names_one_key(command: str | bytes) -> bool:
    """Whether a command's first argument is its key, the only one, so that both decide about its shape."""
    known = _one_key.get(command)
    if known is None:
        text = command.decode("ascii", "replace") if isinstance(command, bytes) else str(command)
        name = text.upper()
        known = not (name in _SEVERAL_KEYS or name in _COUNTED or name in _SUBCOMMANDS or name.split() != [name])
        if len(_one_key) < CACHE_SIZE:
            _one_key[command] = known
    return known


def redis_effect(operation: str) -> Effect:
    """What a command does, by its upper-case name. Scripts and functions are not guessed at."""
    if operation in _REDIS_READS:
        return "read"
    if operation in _REDIS_NONE:
        return "none"
    return "unknown" if operation in _REDIS_UNKNOWN else "write"


def redis_key(key: Any) -> str:
    """A key with its ids as ``{}``: "order:42:lines" is "order:{}:lines"."""
    known = skeleton(key)
    template = _keys.get(known) if known is not None else None
    if template is None:
        parts = _KEY_PARTS.split(_text(key))
        template = "".join(_template(part) if index % 2 == 0 else part.strip("{}") for index, part in enumerate(parts))
        template = _REPEATED.sub("{}", template)[:200]
        if known is not None:
            _keys.put(known, template)
    return template


def _redis_keys(operation: str, args: Sequence[Any]) -> Sequence[Any]:
    if not args or operation in _NO_KEY:
        return ()
    if operation in _ALL_KEYS:
        return args
    if operation in _PAIRS:
        return args[::2]
    if operation in _ALL_BUT_LAST:
        return args[:-1]
    counted = _COUNTED.get(operation)
    if counted is not None:
        try:
            number = int(args[counted])
        except (ValueError, TypeError, IndexError):
            return ()
        return args[counted + 1 : counted + 1 + number]
    if operation in {"XREAD", "XREADGROUP"}:
        for index, argument in enumerate(args):
            if _text(argument).upper() == "STREAMS":
                return args[index + 1 : index + 1 + (len(args) - index - 1) // 2]
        return ()
    return args[:1]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, memoryview):
        return value.tobytes().decode("utf-8", "backslashreplace")
    return str(value)


# ------------------------------------------------------------------------------------------------------------ messages

_MESSAGE_RULES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"\s*(?:\[SQL:|\[parameters:|\(Background on this error).*", re.DOTALL), ""),
    (re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>)\]]+"), "<url>"),
    (re.compile(r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)+"), "<email>"),
    (re.compile(r"=\((?:[^()]|\([^()]*\))*\)"), "=(?)"),
    (re.compile(r"(?<!\w)[bru]?'(?:[^'\\]|\\.)*'(?!\w)|(?<!\w)'[^']*\Z"), "'?'"),
    (re.compile(r'"(?:[^"\\]|\\.)*(?:"|\Z)'), '"?"'),
    (re.compile(r"`[^`]*`"), "`?`"),
    (_UUID, "?"),
    (re.compile(r"\b0[xX][0-9a-fA-F]+\b|\b(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{8,}\b"), "?"),
    (re.compile(r"(?<!\w)(?:/[\w.@+~-]+){2,}/?"), "<path>"),
    (re.compile(r"[-+]?(?<![A-Za-z_])\d[\d_]*(?:[.,:]\d+)*(?:[eE][-+]?\d+)?"), "?"),
    (re.compile(r"(?<!sqlite)(?<!psycopg)(?<!http)(?<!\d)\d+"), "?"),
)
#: An exception's message is looked at this far.
_MESSAGE_CHARS: Final = 1000
_MESSAGE_KEPT: Final = 300


def message(text: str) -> str:
    """An exception's message with numbers, quoted texts, addresses, paths, URLs and statements removed."""
    shape = str(text)[:_MESSAGE_CHARS]
    for pattern, replacement in _MESSAGE_RULES:
        shape = pattern.sub(replacement, shape)
    return _SPACE.sub(" ", shape).strip()[:_MESSAGE_KEPT]
