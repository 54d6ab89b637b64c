// In the list of a batch j and k go from row to row; Enter opens one, as it does any summary.
document.addEventListener('keydown', event => {
  const step = { j: 1, k: -1 }[event.key];
  const typing = event.target.closest('input[type=text], input[type=search], textarea');
  if (!step || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const shown = [...document.querySelectorAll('#rows summary')].filter(row => row.offsetParent);
  if (!shown.length) return;
  const next = shown.indexOf(document.activeElement) + step;
  shown[Math.min(Math.max(next, 0), shown.length - 1)].focus();
  event.preventDefault();
});
