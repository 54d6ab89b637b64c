// The words of the other scripts, in the language that gradio takes for its own part of the page.
(() => {
  const language = navigator.language.split('-')[0];
  const texts = window.dermalertTexts[language] ?? window.dermalertTexts.en;
  document.documentElement.lang = texts === window.dermalertTexts.en ? 'en' : language;
  window.dermalertWords = (key, values = {}) => texts[key].replace(/{(\w+)}/g, (_, name) => values[name]);

  // What gradio does not translate: the words for a picture.
  const alts = { '#picture img': 'uploaded_image', '#second img': 'second_image', '#compared img': 'compared_image' };
  new MutationObserver(() => {
    for (const [where, key] of Object.entries(alts))
      for (const picture of document.querySelectorAll(where)) if (picture.alt !== texts[key]) picture.alt = texts[key];
  }).observe(document, { childList: true, subtree: true });
})();
