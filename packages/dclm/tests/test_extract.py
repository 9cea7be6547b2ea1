"""Pages of any encoding, WARC and WET files of an independent writer."""

import io

import pytest
from dclm import Document, read_documents, sample_pool
from dclm.config import Extract
from dclm.extract import decode_page, extract
from dclm.language import detect_language
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

# A sentence per encoding; every page says what it is only where the second entry does.
PAGES = {
    "utf-8": "Grüße aus Köln",
    "utf-16-le": "Grüße aus Köln",
    "windows-1252": "naïve café – “quoted”",
    "iso-8859-1": "déjà vu à Orléans",
    "iso-8859-9": "ığdır şehri çok güzel",
    "windows-1251": "Привет, это обычный русский текст о погоде и природе.",
    "koi8-r": "Привет, это обычный русский текст о погоде и природе.",
    "shift_jis": "これは日本語のテキストです。",
    "euc-jp": "これは日本語のテキストです。",
    "gb18030": "这是一个中文文本。",
    "big5": "這是一個中文文本。",
    "euc-kr": "이것은 한국어 텍스트입니다.",
    "windows-1256": "هذا نص باللغة العربية",
}


@pytest.mark.parametrize("encoding", PAGES)
@pytest.mark.parametrize("where", ["header", "page"])
def test_pages_of_every_encoding(encoding, where):
    text = PAGES[encoding]
    meta = f'<meta charset="{encoding}">' if where == "page" else ""
    page = f"<html><head>{meta}</head><body><main><p>{text}</p></main></body></html>".encode(encoding)
    page = (b"\xff\xfe" if encoding == "utf-16-le" else b"") + page
    header = f"text/html; charset={encoding}" if where == "header" else "text/html"
    assert text in decode_page(page, header)


def test_an_encoding_that_nobody_states_is_detected():
    text = "Привет, это обычный русский текст о погоде и природе. " * 5
    assert decode_page(text.encode("windows-1251")) == text
    assert decode_page(b"caf\xe9 and a wrong label", "text/html; charset=no-such-thing") == "café and a wrong label"


def test_compat_drops_what_is_not_utf8_and_the_default_keeps_it():
    page = "<html><body><main><p>Привет, это русский текст.</p></main></body></html>".encode("windows-1251")
    fields = {"metadata": {"HTTP-Content-Type": "text/html; charset=windows-1251"}}
    [(document, reason)] = extract([Document("", dict(fields), page)])
    assert (document.text, reason) == ("Привет, это русский текст.", None)
    assert [reason for _, reason in extract([Document("", dict(fields), page)], Extract(compat=True))] == ["not_utf8"]


def test_trafilatura_is_an_option_with_its_own_extra():
    import importlib.util

    page = b"<html><body><article><p>" + b"A sentence of an article. " * 20 + b"</p></article></body></html>"
    if importlib.util.find_spec("trafilatura") is None:
        with pytest.raises(ImportError, match=r"pip install 'dclm\[trafilatura\]'"):
            list(extract([Document("", {}, page)], Extract("trafilatura")))
    else:
        [(document, reason)] = extract([Document("", {}, page)], Extract("trafilatura"))
        assert reason is None and "A sentence of an article." in document.text
        assert document.fields["extractor"].startswith("trafilatura ")


@pytest.fixture
def warc(tmp_path):
    """Write a WARC file with warcio: a response per page, or a conversion per text."""

    def write(name, *pages, kind="response"):
        with open(tmp_path / name, "wb") as file:
            writer = WARCWriter(file, gzip=name.endswith(".gz"))
            for number, page in enumerate(pages):
                headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
                with io.BytesIO(page) as payload:
                    record = writer.create_warc_record(
                        f"http://e.com/{number}",
                        kind,
                        payload=payload,
                        http_headers=headers if kind == "response" else None,
                        warc_content_type="text/plain" if kind == "conversion" else "",
                    )
                    writer.write_record(record)
                    record.raw_stream.close()
        return str(tmp_path / name)

    return write


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # warcio's own spooled files
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["x.warc", "x.warc.gz"])
def test_warcs_of_another_writer(warc, name):
    path = warc(name, b"<html><body><main><p>One page.</p></main></body></html>", b"not html but text")
    documents = [document for document, _ in extract(read_documents(path))]
    assert [document.text for document in documents] == ["One page.", "not html but text"]
    assert documents[0].url == "http://e.com/0"
    assert documents[0].fields["id"].startswith("<urn:uuid:")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_wet_is_text_already(warc):
    path = warc("x.warc.wet.gz", b"Ein Text.\nZwei Zeilen.", kind="conversion")
    assert [(page.text, reason) for page, reason in extract(read_documents(path))] == [
        ("Ein Text.\nZwei Zeilen.", None)
    ]


def test_the_pool_is_small_and_has_many_languages_and_old_encodings():
    from pathlib import Path

    paths = sample_pool()
    assert sum(Path(path).stat().st_size for path in paths) <= 4_000_000
    pages = [page for path in paths for page in read_documents(path)]
    assert len(pages) > 500
    not_utf8 = [page for page in pages if _is_not_utf8(page.page)]
    assert len(not_utf8) >= 3
    languages = {next(iter(detect_language(page.text)), "") for page, _ in extract(pages)}
    assert len(languages) >= 12


def _is_not_utf8(page):
    try:
        page.decode()
    except UnicodeDecodeError:
        return True
    return False


@pytest.mark.parametrize(
    ("text", "language"),
    [("This is a sentence in English.", "en"), ("Dies ist ein Satz.", "de"), ("これは文です。", "ja")],
)
def test_languages(text, language):
    assert list(detect_language(text)) == [language]


def test_punctuation_has_no_language():
    assert detect_language("... -- !\n") == detect_language("") == {}
