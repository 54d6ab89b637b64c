// The list of a batch: what is shown of it, and which rows were opened.
(() => {
  const rows = () => [...document.querySelectorAll('#rows details')];

  function count() {
    const left = document.querySelector('#rows .left');
    if (!left) return;
    const all = rows();
    const seen = all.filter(row => row.classList.contains('seen')).length;
    const shown = all.filter(row => !row.hidden).length;
    left.textContent = window.dermalertWords('shown', { shown, all: all.length, opened: seen });
  }

  window.dermalertFilter = (kind, text) => {
    const named = rows().filter(row => row.dataset.file.includes(text.toLowerCase()));
    for (const row of rows()) row.hidden = !named.includes(row) || (kind !== 'all' && row.dataset.state !== kind);
    for (const block of document.querySelectorAll('#rows section'))
      block.hidden = ![...block.querySelectorAll('details')].some(row => !row.hidden);
    for (const label of document.querySelectorAll('#kind label')) { // each choice with how many rows it would show
      const value = label.querySelector('input').value;
      label.dataset.count = named.filter(row => value === 'all' || row.dataset.state === value).length;
    }
    count();
  };

  // A row's own event does not bubble, so it is caught on the way down.
  document.addEventListener('toggle', event => {
    if (!event.target.open || !event.target.closest('#rows')) return;
    event.target.classList.add('seen');
    event.target.querySelector('.file').dataset.opened = window.dermalertWords('opened');
    count();
  }, true);
})();
