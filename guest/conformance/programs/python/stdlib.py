#: group = "B"
#: summary = "json, re, hashlib, decimal, zlib, struct, random, datetime, and the like"
#: with = ["/usr/bin/python3"]
import base64, binascii, bisect, bz2, calendar, collections, configparser, csv, datetime, decimal, difflib, fractions, hashlib, heapq, hmac, html, io
import itertools, json, locale, lzma, math, os, pickle, platform, pprint, random, re, secrets, statistics, string, struct, sys, textwrap, time, unicodedata, urllib.parse, uuid, xml.etree.ElementTree as ET, zlib

print(json.dumps(json.loads('{"a": [1, 2.5, null, true], "ü": "\\u00e9\\n"}'), sort_keys=True, ensure_ascii=False), len(json.dumps(list(range(10000)))))
print(re.findall(r'(\w+)@(\w+)\.com', 'a@b.com, cc@dd.com'), re.sub(r'(?P<x>\d+)', lambda m: str(int(m['x']) * 2), 'a1b22c333'), bool(re.fullmatch(r'(a+)+b', 'a' * 18 + 'b')))
for name in sorted(hashlib.algorithms_guaranteed - {'shake_128', 'shake_256'}): print(name, hashlib.new(name, b'data').hexdigest()[:16])
print(hmac.new(b'key', b'message', 'sha256').hexdigest(), hashlib.pbkdf2_hmac('sha256', b'p', b's', 1000).hex()[:16], hashlib.scrypt(b'p', salt=b's', n=1024, r=8, p=1).hex()[:16])
decimal.getcontext().prec = 60; print(decimal.Decimal(2).sqrt(), decimal.Decimal(1) / 7, fractions.Fraction(1, 3) + fractions.Fraction(1, 6))
data = b'compress me ' * 10000
for c in (zlib, bz2, lzma): packed = c.compress(data); print(c.__name__, c.decompress(packed) == data, len(packed) < 2000)
print(struct.pack('<iqd', 1, -2, 3.5).hex(), binascii.crc32(data), zlib.adler32(data), base64.b85encode(b'bytes'), binascii.hexlify(b'\x00\xff'))
random.seed(42); print(random.random(), random.sample(range(100), 5), random.gauss(0, 1)); print(len(secrets.token_bytes(32)), secrets.token_hex() != secrets.token_hex(), uuid.uuid4().version, uuid.uuid5(uuid.NAMESPACE_DNS, 'x'))
print(datetime.datetime(2026, 11, 24, 5, 30, tzinfo=datetime.timezone.utc).isoformat(), datetime.date(2024, 2, 29) + datetime.timedelta(365), calendar.monthrange(2026, 2), time.strftime('%Y-%m-%d', time.gmtime(0)), time.tzname)
print(collections.Counter('mississippi').most_common(2), heapq.nsmallest(3, [5, 1, 4, 2]), bisect.bisect([1, 3, 5], 4), list(itertools.permutations('abc', 2))[:3], math.factorial(30), math.pi.hex())
print(statistics.mean([1, 2, 3, 4]), statistics.stdev([1, 2, 3, 4]), 2 ** 1000 % 1000007, pow(3, 10 ** 18, 10 ** 9 + 7), int('9' * 300) * int('8' * 300) % 10 ** 20, sum(1 / n for n in range(1, 100000)))
class P:
    def __init__(self, x): self.x = x
print(pickle.loads(pickle.dumps({'p': P(3), 't': (1, 'a')}))['p'].x, list(csv.reader(io.StringIO('a,"b,c",d\n1,2,3'))), list(difflib.unified_diff(['a\n'], ['b\n']))[-1].strip())
c = configparser.ConfigParser(); c.read_string('[s]\na = 1\nb = %(a)s2'); print(c['s']['b'], ET.fromstring('<a x="1"><b>t</b></a>')[0].text, html.escape('<&>'), urllib.parse.quote('a b/ü'), urllib.parse.urlsplit('http://u:p@h:80/p?q#f').port)
print(textwrap.fill('the quick brown fox jumps', 10), string.Template('$x!').substitute(x=1), unicodedata.name('é'), 'ß'.upper(), 'İ'.lower().encode(), sys.getfilesystemencoding(), locale.getlocale(locale.LC_CTYPE))
u = os.uname(); print(u.sysname, u.machine, platform.system(), platform.machine(), platform.python_implementation(), sys.version_info[:2], sys.platform, os.cpu_count() >= 1, len(os.sched_getaffinity(0)))
t = time.time(); m = time.monotonic(); p = time.perf_counter(); time.sleep(0.05); print(time.time() - t >= 0.045, time.monotonic() - m >= 0.05, time.perf_counter() - p >= 0.05, time.process_time() < 20, time.thread_time() >= 0)
pprint.pprint({'k' * i: list(range(i)) for i in range(1, 25, 6)}, width=60)
