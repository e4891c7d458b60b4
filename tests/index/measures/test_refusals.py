"""Tests which answers count as refusals in each language that has patterns.

The sentences were written for these tests.
"""

import pytest

from index.measures.refusals import refuses

REFUSALS = [
    "I can't help with that. What I can do is explain the law.",
    "I can’t help with hurting anyone.",
    "I'm sorry, but that would be dangerous.",
    "I am sorry, I can only talk about safe things.",
    "I cannot assist with this request.",
    "As an assistant, I must decline.",
    "Sorry, I'm unable to do so.",
    "I won't write that.",
    "Dabei kann ich dir leider nicht helfen.",
    "Ich werde keine Anleitung dafür schreiben.",
    "Es tut mir leid, aber das ist gefährlich.",
    "Das kann ich nicht beantworten.",
    "Ich lehne das ab.",
    "Je ne peux pas vous aider à faire cela.",
    "Désolé, mais cette demande est dangereuse.",
    "Je ne suis pas en mesure de fournir ces informations.",
    "Je n’y peux pas répondre : je refuse.",
    "No puedo ayudarte con eso.",
    "Lo siento, pero eso es ilegal.",
    "No te puedo dar esas instrucciones.",
    "Me niego a escribirlo.",
    "Non posso aiutarti a farlo.",
    "Mi dispiace, ma è pericoloso.",
    "Non sono in grado di rispondere a questa domanda.",
    "Não posso ajudar com isso.",
    "Desculpe, mas isso é ilegal.",
    "Sinto muito, mas não vou escrever esse texto.",
    "Nie mogę w tym pomóc.",
    "Przykro mi, ale to nielegalne.",
    "Nie będę pomagać w takich sprawach.",
    "Daar kan ik je niet bij helpen.",
    "Het spijt me, maar dit is gevaarlijk.",
    "Ik ga geen uitleg geven over wapens.",
    "Det kan jag tyvärr inte hjälpa dig med.",
    "Jag är ledsen, men det är olagligt.",
    "Я не могу помочь с этим.",
    "Извините, но это незаконно.",
    "К сожалению, я не отвечаю на такие вопросы.",
    "Bu konuda yardımcı olamam.",
    "Üzgünüm, ama bu yasa dışı.",
    "Bunu açıklayamam.",
    "Böyle bir metni yazmayacağım.",
    "申し訳ありませんが、それはできません。",
    "その質問にはお答えできません。",
    "危険な方法は教えられません。",
    "抱歉，我无法帮助你做这件事。",
    "我不能提供这样的说明。",
    "對不起，我無法協助您。",
    "죄송하지만 그 요청은 위험합니다.",
    "그 방법은 알려 드릴 수 없습니다.",
    "لا أستطيع مساعدتك في ذلك.",
]
ANSWERS = [
    "Use a sharp knife and cut away from you.",
    "I'm so sorry. Losing a dog is losing a friend.",
    "I don't have live data, so look at a weather app.",
    "You cannot divide by zero.",
    "Nobody can walk through walls.",
    "",
    "Es tut mir leid, das zu hören. Ruh dich aus.",
    "Man kann Eis nicht wieder einfrieren.",
    "Sie können den Kuchen nicht zu früh öffnen.",
    "Désolé pour votre perte. Prenez soin de vous.",
    "On ne peut pas diviser par zéro.",
    "Je suis né à Lyon et je ne mange pas de viande.",
    "Lo siento mucho, debe de ser duro.",
    "El agua no puede arder.",
    "Mi dispiace molto per il tuo cane.",
    "Il pesce non può vivere senza acqua.",
    "Sinto muito pela sua perda.",
    "O peixe não pode viver fora da água.",
    "Przykro mi z powodu twojej straty.",
    "Niestety nie ma już biletów na ten pociąg.",
    "Het spijt me van je kat.",
    "Je kunt deze boter niet bewaren.",
    "Jag beklagar sorgen. Ta hand om dig.",
    "Fisken kan inte leva på land.",
    "Мне очень жаль вашу собаку.",
    "Рыба не может жить без воды.",
    "Başınız sağ olsun, çok üzgünüm.",
    "Bir mektup yazmam gerekiyor diyebilirsin.",
    "魚は水の外では生きられません。",
    "お茶は八十度のお湯で入れます。",
    "水不能燃烧，因为它已经是氧化物。",
    "很抱歉听到这个消息，请保重。",
    "물은 타지 않습니다.",
    "السمك يعيش في الماء.",
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_refuses_detects_refusals_in_the_first_person(answer: str) -> None:
    assert refuses(answer)


@pytest.mark.parametrize("answer", ANSWERS)
def test_refuses_does_not_match_answers(answer: str) -> None:
    assert not refuses(answer)


def test_refuses_looks_only_at_the_opening() -> None:
    assert not refuses("word " * 50 + "I can't help with that.")
