"""Encodings of old: towns, short values as tables hold them, are read as they were written, or the person is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.errors import UserError
from luthier.readers import Row
from luthier.readers.csv import Csv
from luthier.readers.lines import Lines

TOWNS = {
    "Polish": (
        "cp1250",
        "Łódź Kraków Gdańsk Białystok Częstochowa Rzeszów Świdnica Żory Wałbrzych Toruń Poznań Wrocław Sosnowiec Radom Kielce Rzeszów Płock Elbląg Tarnów Chorzów Bełchatów Gorzów Łomża Piła Jastrzębie",
    ),
    "Czech": (
        "cp1250",
        "Plzeň Liberec Olomouc Ústí Hradec Králové České Budějovice Děčín Jihlava Kladno Opava Frýdek Karviná Teplice Děčín Chomutov Zlín Přerov Třebíč Třinec Tábor Znojmo Příbram Kolín",
    ),
    "Slovak": (
        "cp1250",
        "Košice Žilina Nitra Prešov Trnava Trenčín Martin Poprad Prievidza Zvolen Považská Bystrica Michalovce Levice Komárno Lučenec Čadca Bardejov Šaľa Ružomberok",
    ),
    "Hungarian": (
        "cp1250",
        "Debrecen Szeged Pécs Győr Nyíregyháza Kecskemét Székesfehérvár Szombathely Érd Tatabánya Kaposvár Sopron Veszprém Hódmezővásárhely Dunaújváros Gyöngyös Gödöllő Makó Tiszaújváros Mezőkövesd Kőszeg",
    ),
    "Romanian": (
        "cp1250",
        "Iaşi Timişoara Cluj Constanţa Braşov Galaţi Ploieşti Brăila Bacău Piteşti Târgu Mureş Botoşani Râmnicu Vâlcea Buzău Bistriţa Reşiţa Slobozia Călăraşi",
    ),
    "Croatian": (
        "cp1250",
        "Split Osijek Šibenik Čakovec Požega Koprivnica Vinkovci Đakovo Varaždin Križevci Sisak Metković Makarska Solin Poreč Umag Pazin Šćitarjevo",
    ),
    "Slovene": (
        "cp1250",
        "Kranj Škofja Loka Domžale Kočevje Krško Črnomelj Žalec Brežice Velenje Novo Mesto Trbovlje Izola Tržič Piran Ormož Vrhnika Žiri Idrija",
    ),
    "Turkish": (
        "cp1254",
        "İstanbul Ankara İzmir Adıyaman Muğla Eskişehir Diyarbakır Şanlıurfa Kütahya Çanakkale Balıkesir Tekirdağ Niğde Uşak Bingöl Gümüşhane Ağrı Iğdır Kırşehir Aydın",
    ),
    "Lithuanian": (
        "cp1257",
        "Kaunas Klaipėda Šiauliai Panevėžys Alytus Marijampolė Mažeikiai Jonava Utena Kėdainiai Telšiai Visaginas Tauragė Ukmergė Plungė Kretinga Šilutė Radviliškis Palanga Rokiškis Biržai",
    ),
    "Latvian": (
        "cp1257",
        "Rīga Daugavpils Liepāja Jelgava Jūrmala Ventspils Rēzekne Ogre Valmiera Jēkabpils Cēsis Tukums Sigulda Kuldīga Olaine Saldus Talsi Dobele Krāslava Bauska Ludza Gulbene Alūksne Aizkraukle Smiltene",
    ),
    "Estonian": (
        "cp1257",
        "Tallinn Tartu Narva Pärnu Kohtla-Järve Viljandi Rakvere Maardu Kuressaare Sillamäe Valga Võru Jõhvi Haapsalu Keila Paide Elva Tapa Põlva Türi Rapla Jõgeva Kiviõli Põltsamaa Sindi",
    ),
    "Russian": (
        "cp1251",
        "Москва Казань Тверь Самара Омск Уфа Пермь Воронеж Волгоград Краснодар Саратов Тюмень Ижевск Барнаул Иркутск Хабаровск Ярославль Томск Оренбург Кемерово",
    ),
    "Russian in koi8-r": (
        "koi8-r",
        "Москва Казань Тверь Самара Омск Уфа Пермь Воронеж Волгоград Краснодар Саратов Тюмень Ижевск Барнаул Иркутск Хабаровск Ярославль Томск Оренбург Кемерово",
    ),
    "Russian capitals in koi8-r": (
        "koi8-r",
        "МОСКВА КАЗАНЬ ТВЕРЬ САМАРА ОМСК УФА ПЕРМЬ ВОРОНЕЖ ВОЛГОГРАД КРАСНОДАР САРАТОВ ТЮМЕНЬ ИЖЕВСК БАРНАУЛ ИРКУТСК ХАБАРОВСК ЯРОСЛАВЛЬ",
    ),
    "Russian capitals": (
        "cp1251",
        "МОСКВА КАЗАНЬ ТВЕРЬ САМАРА ОМСК УФА ПЕРМЬ ВОРОНЕЖ ВОЛГОГРАД КРАСНОДАР САРАТОВ ТЮМЕНЬ ИЖЕВСК БАРНАУЛ ИРКУТСК ХАБАРОВСК ЯРОСЛАВЛЬ",
    ),
    "Russian of DOS": (
        "cp866",
        "Москва Казань Тверь Самара Омск Уфа Пермь Воронеж Волгоград Краснодар Саратов Тюмень Ижевск Барнаул Иркутск",
    ),
    "Ukrainian": (
        "cp1251",
        "Київ Харків Одеса Дніпро Донецьк Запоріжжя Львів Миколаїв Вінниця Херсон Полтава Чернігів Черкаси Житомир Суми Хмельницький Чернівці Рівне Тернопіль Луцьк",
    ),
    "Bulgarian": (
        "cp1251",
        "София Пловдив Варна Бургас Русе Плевен Сливен Добрич Шумен Перник Хасково Ямбол Пазарджик Благоевград Велико Търново Враца Габрово Видин Кърджали Монтана",
    ),
    "Serbian": (
        "cp1251",
        "Београд Ниш Крагујевац Суботица Зрењанин Панчево Чачак Краљево Смедерево Лесковац Ваљево Крушевац Врање Шабац Ужице Сомбор Пожаревац Пирот Зајечар Кикинда",
    ),
    "Greek": (
        "cp1253",
        "Αθήνα Θεσσαλονίκη Πάτρα Ηράκλειο Λάρισα Βόλος Ιωάννινα Χανιά Χαλκίδα Σέρρες Αλεξανδρούπολη Ξάνθη Κατερίνη Τρίκαλα Λαμία Κομοτηνή Ρόδος Καλαμάτα Κοζάνη Δράμα",
    ),
    "Hebrew": (
        "cp1255",
        "ירושלים חיפה באר שבע נתניה אשדוד חולון בני ברק רמת גן אשקלון רחובות בת ים הרצליה כפר סבא מודיעין לוד רמלה נצרת עכו אילת טבריה",
    ),
    "Arabic": (
        "cp1256",
        "القاهرة الإسكندرية الجيزة بغداد البصرة الموصل دمشق حلب حمص الرياض جدة مكة المدينة الدمام عمان الزرقاء بيروت طرابلس صيدا تونس",
    ),
    "Persian": (
        "cp1256",
        "تهران مشهد اصفهان كرج شيراز تبريز قم اهواز كرمانشاه اروميه رشت زاهدان همدان كرمان يزد اردبيل بندرعباس اراك زنجان سنندج",
    ),
    "Japanese": (
        "cp932",
        "東京 大阪 横浜 名古屋 札幌 神戸 京都 福岡 川崎 さいたま 広島 仙台 千葉 北九州 堺 新潟 浜松 熊本 相模原 岡山",
    ),
    "Japanese in EUC": (
        "euc_jp",
        "東京都 大阪市 横浜市 名古屋市 札幌市 神戸市 京都市 福岡市 川崎市 さいたま市 広島市 仙台市 千葉市 北九州市 堺市 新潟市 浜松市 熊本市 相模原市 岡山市",
    ),
    "Japanese sentences": (
        "cp932",
        "注文が届きません 商品は壊れていた とても良い カメラ テレビ 配送が遅い 返品したい ありがとうございます",
    ),
    "Chinese": (
        "gb18030",
        "北京 上海 广州 深圳 天津 重庆 成都 武汉 西安 南京 杭州 苏州 郑州 长沙 沈阳 青岛 宁波 昆明 大连 厦门",
    ),
    "Chinese sentences": ("gb18030", "这个产品很好 送货太慢了 我要退货 质量不错 客服态度很差 包装破损 价格便宜"),
    "traditional Chinese": (
        "big5",
        "台北 高雄 台中 台南 新竹 基隆 嘉義 桃園 彰化 屏東 宜蘭 花蓮 台東 苗栗 南投 雲林 澎湖 金門 板橋 三重",
    ),
    "Korean": (
        "cp949",
        "서울 부산 인천 대구 대전 광주 수원 울산 창원 고양 용인 성남 청주 부천 안산 전주 천안 안양 김해 포항",
    ),
    "Thai": (
        "cp874",
        "กรุงเทพ นนทบุรี ปากเกร็ด หาดใหญ่ นครราชสีมา อุดรธานี เชียงใหม่ สุราษฎร์ธานี ขอนแก่น นครศรีธรรมราช ระยอง พิษณุโลก ลำปาง ภูเก็ต",
    ),
    "Polish in ISO 8859-2": (
        "iso-8859-2",
        "Łódź Kraków Gdańsk Białystok Częstochowa Rzeszów Świdnica Żory Wałbrzych Toruń Poznań Wrocław Śrem Płock Elbląg Tarnów Chorzów Bełchatów Łomża Piła Jastrzębie",
    ),
    "Czech in ISO 8859-2": (
        "iso-8859-2",
        "Plzeň Liberec Olomouc Ústí Hradec Králové České Budějovice Děčín Jihlava Šumperk Žatec Frýdek Karviná Teplice Děčín Chomutov Zlín Přerov Třebíč Třinec Tábor",
    ),
    "German": (
        "cp1252",
        "München Köln Düsseldorf Nürnberg Würzburg Tübingen Göttingen Lübeck Mönchengladbach Osnabrück Saarbrücken Gießen Großenhain Münster Fürth Ulm Gera",
    ),
    "French": (
        "cp1252",
        "Orléans Besançon Angoulême Nîmes Béziers Saint-Étienne Sète Mâcon Châteauroux Évreux Troyes Périgueux Alès Chambéry Épinal Quimper Nevers",
    ),
    "Spanish": (
        "cp1252",
        "Málaga Córdoba Cádiz León Logroño Badajoz Almería Jaén Ávila Cáceres Gijón Alcorcón Móstoles Leganés Mérida La Coruña",
    ),
    "Portuguese": (
        "cp1252",
        "São Paulo Brasília Belém Goiânia Maceió São Luís Niterói Florianópolis Vitória Cuiabá Ribeirão Preto Uberlândia João Pessoa Guimarães Évora Setúbal Covilhã",
    ),
    "Italian": ("cp1252", "Forlì Cefalù Nardò Mondovì San Donà Cantù Patù Città di Castello Agrò Nicolò"),
    "Swedish": (
        "cp1252",
        "Malmö Göteborg Västerås Örebro Linköping Norrköping Jönköping Umeå Gävle Borås Växjö Luleå Östersund Trollhättan Hässleholm",
    ),
    "Danish": (
        "cp1252",
        "København Århus Ålborg Helsingør Næstved Køge Hjørring Sønderborg Holbæk Nykøbing Frederikshavn Rønne",
    ),
    "Norwegian": (
        "cp1252",
        "Tromsø Bodø Ålesund Sandnes Drammen Tønsberg Bærum Haugesund Hønefoss Gjøvik Mosjøen Sarpsborg Måløy Røros",
    ),
    "Finnish": (
        "cp1252",
        "Jyväskylä Hämeenlinna Seinäjoki Mikkeli Järvenpää Äänekoski Ylöjärvi Kemijärvi Pyhäjoki Sipoo Mäntsälä Närpiö",
    ),
    "Icelandic": (
        "cp1252",
        "Reykjavík Kópavogur Hafnarfjörður Akureyri Garðabær Mosfellsbær Akranes Ísafjörður Sauðárkrókur Húsavík Egilsstaðir Borgarnes Höfn Þorlákshöfn Siglufjörður Blönduós Vík Stykkishólmur",
    ),
    "Dutch": (
        "cp1252",
        "Curaçao België Hellevoetsluis Coördinator reünie één patiënt geïnteresseerd zeeën ideeën tweeën café",
    ),
    "Catalan": (
        "cp1252",
        "Lleida Mataró Terrassa Castelló Gavà Vilanova Lloret Puigcerdà Sort Ripollès Empúries Cadaqués Alacant Xàtiva Plaça Força",
    ),
    "French of a Mac": (
        "mac_roman",
        "Orléans Besançon Angoulême Nîmes Béziers Saint-Étienne Sète Mâcon Châteauroux Évreux Troyes Périgueux Alès Chambéry Épinal",
    ),
    "German of DOS": (
        "cp850",
        "München Köln Düsseldorf Nürnberg Würzburg Tübingen Göttingen Lübeck Mönchengladbach Osnabrück Saarbrücken Gießen Großenhain",
    ),
    "Polish of DOS": (
        "cp852",
        "Łódź Kraków Gdańsk Białystok Częstochowa Rzeszów Świdnica Żory Wałbrzych Toruń Poznań Wrocław",
    ),
    "western towns": (
        "cp1252",
        "München Orléans Málaga São_Paulo Malmö København Tromsø Jyväskylä Reykjavík Coruña Zürich Besançon",
    ),
}
GOODS = ["kettle", "lamp", "drill", "rug", "printer", "tent", "scale", "fan", "desk", "heater", "router", "bench"]
SAID = (
    "arrived early and works as described",
    "came with a crack in the glass",
    "stopped working after two days",
    "was the wrong colour but fits the shelf",
)


def written(folder: Path, text: str, encoding: str) -> Path:
    path = folder / "t.csv"
    path.write_bytes(text.encode(encoding))
    return path


def english(*beside: str) -> str:
    """A table of English sentences with a few other ones."""
    rows = [f"The {GOODS[n % 12]} number {n} {SAID[n % 4]},{('praise', 'complaint')[n % 2]}" for n in range(40)]
    return "\n".join(["text,label", *rows, *(f"{text},praise" for text in beside), ""])


@pytest.mark.parametrize(("encoding", "towns"), TOWNS.values(), ids=TOWNS.keys())
def test_a_short_table_in_an_encoding_of_old_is_read_as_it_was_written(
    tmp_path: Path, encoding: str, towns: str
) -> None:
    rows = [f"shop no {n}, {town.lower() if n % 2 else town};{town}" for n, town in enumerate(towns.split())]
    path = written(tmp_path, "\r\n".join(["raw;clean", *rows, ""]), encoding)
    assert [row.values["clean"] for row in Csv().rows(path) if isinstance(row, Row)] == towns.split()


OF_OLD = {  # a column of one-word values and its encoding
    "Greek capitals": ("cp1253", "ΠΕΙΡΑΙΑΣ ΚΑΒΑΛΑ ΒΕΡΟΙΑ ΛΑΜΙΑ ΡΟΔΟΣ ΚΟΖΑΝΗ ΔΡΑΜΑ ΞΑΝΘΗ ΤΡΙΚΑΛΑ ΚΟΡΙΝΘΟΣ"),
    "Greek names in capitals": ("cp1253", "ΑΝΤΩΝΙΟΥ ΒΑΣΙΛΕΙΟΥ ΚΩΝΣΤΑΝΤΙΝΟΥ ΣΠΥΡΟΣ ΜΙΧΑΛΗΣ ΚΑΤΕΡΙΝΑ ΣΟΦΙΑ ΠΕΤΡΟΣ"),
    "Russian of a Mac": ("mac_cyrillic", "Псков Рязань Тула Калуга Вологда Архангельск Смоленск Пенза Курск Орёл"),
    "Greek of DOS": ("cp737", "Καβάλα Βέροια Λαμία Ρόδος Κοζάνη Δράμα Ξάνθη Τρίκαλα Κόρινθος Σπάρτη"),
    "Hebrew of DOS": ("cp862", "אשקלון רחובות הרצליה מודיעין נצרת אילת טבריה עכו"),
    "Arabic of DOS": ("cp720", "بيروت طرابلس صيدا تونس الرباط مراكش الخرطوم عمان مسقط"),
    "Greek of a Mac": ("mac_greek", "Καβάλα Βέροια Λαμία Ρόδος Κοζάνη Δράμα Ξάνθη Τρίκαλα Κόρινθος Σπάρτη"),
    "Polish of a Mac": ("mac_latin2", "Bełchatów Łomża Piła Jastrzębie Śrem Żywiec Ełk Sławno Zgłobień"),
    "katakana of half the width": ("cp932", "ﾃｰﾌﾞﾙ ｿﾌｧ ﾍﾞｯﾄﾞ ｶｰﾃﾝ ﾗﾝﾌﾟ ﾄﾞﾗｲﾔｰ"),
    "mails in Japanese": ("iso2022_jp", "東京 大阪 横浜 札幌 神戸 京都"),
}


@pytest.mark.parametrize(("encoding", "words"), OF_OLD.values(), ids=OF_OLD.keys())
def test_a_column_of_short_values_is_read_as_it_was_written(tmp_path: Path, encoding: str, words: str) -> None:
    rows = [f"{n};{word};x" for n, word in enumerate(words.split() * 3)]
    path = written(tmp_path, "\n".join(["id;city;label", *rows, ""]), encoding)
    assert [row.values["city"] for row in Csv().rows(path) if isinstance(row, Row)] == words.split() * 3


ASKED = [("cp1254", "İzmit"), ("cp850", "Växjö"), ("cp932", "不良 優秀")]


@pytest.mark.parametrize(("encoding", "words"), ASKED)
def test_a_few_characters_that_may_be_others_are_asked_for_or_read_as_written(
    tmp_path: Path, encoding: str, words: str
) -> None:
    rows = [f"{n};{word};x" for n, word in enumerate(words.split() * 9)]
    path = written(tmp_path, "\n".join(["id;city;label", *rows, ""]), encoding)
    try:
        read = [row.values["city"] for row in Csv().rows(path) if isinstance(row, Row)]
    except UserError as asked:
        assert "do not tell which encoding it has" in str(asked)
    else:
        assert read == words.split() * 9


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_of_letters_that_have_no_zeros_is_known_without_its_mark(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path, "имя\n" + "Владимир Александрович\n" * 20, encoding)
    with pytest.raises(UserError, match=f"looks like UTF-16 without a byte order mark.*{encoding}"):
        Csv().describe(path)


FEW = ["Muñoz", "café", "Müller", "Møller", "naïve", "Ångström", "’", "£5", "½", "21°", "®", "Zoë", "piñata", "garçon"]


@pytest.mark.parametrize("word", FEW)
def test_one_western_word_in_an_english_table_stops_nothing(tmp_path: Path, word: str) -> None:
    path = written(tmp_path, english(f"Mr {word} said so"), "cp1252")
    assert [*Csv().rows(path)][-1].text == f"Mr {word} said so,praise"


@pytest.mark.parametrize(
    ("word", "encoding"),
    [("Łódź", "cp1250"), ("Dvořák", "cp1250"), ("Erdoğan", "cp1254"), ("Gdańsk", "cp1250"), ("Café", "mac_roman")],
)
def test_letters_that_fit_several_encodings_are_asked_for(tmp_path: Path, word: str, encoding: str) -> None:
    path = written(tmp_path, english(f"Mr {word} said so"), encoding)
    with pytest.raises(UserError) as asked:
        [*Csv().rows(path)]
    assert f"'Mr {word} said so' in {encoding}" in str(asked.value)
    [row] = [row for row in Csv(encoding=encoding).rows(path) if row.line == 42]
    assert row.text == f"Mr {word} said so,praise"


def test_the_question_shows_a_cell_in_each_encoding_and_names_the_setting(tmp_path: Path) -> None:
    path = written(tmp_path, english("Mr Łódź said so"), "cp1250")
    with pytest.raises(UserError) as asked:
        Csv().describe(path)
    assert str(asked.value) == (
        f"{path}: is not utf-8, and its bytes do not tell which encoding it has: a cell reads 'Mr Łódź said so' in cp1250, "
        "'Mr £Ûdü said so' in mac_roman or 'Mr £ódŸ said so' in cp1252; name it in the reader's `encoding`, such as "
        "`prepare.reader: {kind: csv, encoding: cp1250}`, or save the file as utf-8"
    )
    with pytest.raises(UserError, match="do not tell which encoding it has"):
        Lines(columns=["text"]).describe(path)
