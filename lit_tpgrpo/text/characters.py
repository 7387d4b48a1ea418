r"""Replace Unicode characters by ASCII or TeX equivalents, as they come from keyboards, PDFs and Chinese models."""

from __future__ import annotations

import re

_EQUIVALENTS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
    "∙": r"\cdot ", "÷": r"\div ", "∗": "*", "⁄": "/", "∕": "/", "°": r"^{\circ}", "º": r"^{\circ}", "˚": r"^{\circ}",
    "′": "'", "’": "'", "‘": "'", "“": "", "”": "", '"': "", "∞": r"\infty ", "π": r"\pi ", "±": r"\pm ", "∓": r"\mp ",
    "≤": r"\leq ", "≦": r"\leq ", "⩽": r"\leq ", "≥": r"\geq ", "≧": r"\geq ", "⩾": r"\geq ", "≠": r"\neq ",
    "≈": r"\approx ", "≅": r"\cong ", "≡": r"\equiv ", "∈": r"\in ", "∉": r"\notin ", "∪": r"\cup ", "∩": r"\cap ",
    "∖": r"\setminus ", "∅": r"\emptyset ", "⌀": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "∠": r"\angle ", "△": r"\triangle ", "∴": r"\therefore ",
    "⟨": r"\langle ", "⟩": r"\rangle ", "〈": r"\langle ", "〉": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ",
    "⌈": r"\lceil ", "⌉": r"\rceil ", "→": r"\rightarrow ", "⇒": r"\Rightarrow ", "∣": "|", "∥": r"\parallel ",
    "⊥": r"\perp ", "∨": r"\vee ", "∧": r"\wedge ", "∘": r"\circ ", "…": r"\ldots ", "，": ",", "、": ",", "。": ".",
    "．": ".", "｡": ".", "《": "(", "》": ")", "【": "[", "】": "]", "〔": "(", "〕": ")", "￥": "¥", "㎝": r"\text{ cm}",
    "㎡": r"\text{ m}^2", "㎞": r"\text{ km}", "㎏": r"\text{ kg}", "％": r"\%",
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}", "⅘": r"\frac{4}{5}", "⅙": r"\frac{1}{6}",
    "⅚": r"\frac{5}{6}", "⅐": r"\frac{1}{7}", "⅛": r"\frac{1}{8}", "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}",
    "⅞": r"\frac{7}{8}", "⅑": r"\frac{1}{9}", "⅒": r"\frac{1}{10}",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "ε": r"\epsilon ", "ζ": r"\zeta ",
    "η": r"\eta ", "θ": r"\theta ", "ι": r"\iota ", "κ": r"\kappa ", "λ": r"\lambda ", "μ": r"\mu ", "ν": r"\nu ",
    "ξ": r"\xi ", "ρ": r"\rho ", "σ": r"\sigma ", "τ": r"\tau ", "υ": r"\upsilon ", "φ": r"\phi ", "χ": r"\chi ",
    "ψ": r"\psi ", "ω": r"\omega ",
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\xad", ""),
    **{chr(0xFF01 + n): chr(0x21 + n) for n in range(94) if chr(0xFF01 + n) not in "％"},
    **{chr(0x1D7CE + n): str(n % 10) for n in range(50)},
}  # fmt: skip
_TABLE = str.maketrans(_EQUIVALENTS)

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿˣ", "0123456789+-nx", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₙₓ", "0123456789+-nx", strict=True))
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_ROOT = re.compile(r"([√∛∜])\s?([0-9]+(?:\.[0-9]+)?|\([^()]*\)|.)?", re.DOTALL)
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}


def plain_characters(text: str) -> str:
    r"""Replace characters that have an ASCII or TeX equivalent: ``√12`` becomes ``\sqrt{12}``, ``x²`` becomes ``x^{2}``.

    Takes time linear in the text. Other characters, such as letters of other scripts, are kept.
    """
    if text.isascii():
        return text
    text = _ROOT.sub(_root, text)
    text = _RAISED.sub(lambda run: f"^{{{''.join(_SUPERSCRIPTS[c] for c in run[0])}}}", text)
    text = _LOWERED.sub(lambda run: f"_{{{''.join(_SUBSCRIPTS[c] for c in run[0])}}}", text)
    return text.translate(_TABLE)


def _root(match: re.Match[str]) -> str:
    sign, radicand = match[1], match[2] or ""
    if radicand.startswith("("):
        radicand = radicand[1:-1]
    # A TeX parser takes a command or group after the root sign as its argument.
    return _ROOTS[sign] + (radicand if radicand in ("\\", "{", "}", "") else f"{{{radicand}}}")
