// Look closer at the uploaded picture, and have a square of it assessed instead of the whole.
(() => {
  const SMALLEST = 32; // pixels of the picture: below that it could not be assessed anyway

  const words = window.dermalertWords;

  const template = `
    <div class="view" tabindex="0" role="group" aria-describedby="crop-help"><div class="sheet"><img alt="${words('enlarged')}">
      <div class="square" role="img" aria-label="${words('square')}"></div></div></div>
    <p id="crop-help">${words('crop_help')}</p>
    <p class="buttons"><label>${words('zoom')} <input class="zoom" type="range" min="1" max="8" step="0.25" value="1"></label>
      <label>${words('side')} <input class="side" type="range"></label><output aria-live="polite"></output>
      <button type="button" value="crop" class="primary">${words('crop')}</button>
      <button type="button" value="close">${words('close')}</button></p>`;

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const picture = () => document.querySelector('#picture img');

  function dialog() {
    const made = document.createElement('dialog');
    made.id = 'closer';
    made.setAttribute('aria-label', words('look_closer'));
    made.innerHTML = template;
    document.querySelector('.gradio-container').append(made);
    const [view, sheet, img, box, zoom, size, said] = ['.view', '.sheet', 'img', '.square', '.zoom', '.side', 'output']
      .map(each => made.querySelector(each));
    let square; // { x, y, side } in pixels of the picture
    let start; // where a pointer went down, and the square that was moved from there

    const scale = () => img.clientWidth / img.naturalWidth;

    function show() {
      const by = scale();
      Object.assign(box.style, { left: `${square.x * by}px`, top: `${square.y * by}px`, width: `${square.side * by}px`,
        height: `${square.side * by}px` });
      size.value = square.side;
      said.value = words('pixels', square);
    }

    function set(x, y, side) {
      const { naturalWidth: width, naturalHeight: height } = img;
      side = Math.round(clamp(side, Math.min(SMALLEST, width, height), Math.min(width, height)));
      square = { x: Math.round(clamp(x, 0, width - side)), y: Math.round(clamp(y, 0, height - side)), side };
      show();
    }

    function fit() {
      const by = Math.min(view.clientWidth / img.naturalWidth, view.clientHeight / img.naturalHeight);
      sheet.style.width = `${img.naturalWidth * by * zoom.value}px`;
      show();
    }

    // Where on the picture a pointer is, in its pixels.
    function at(event) {
      const rectangle = img.getBoundingClientRect();
      return [(event.clientX - rectangle.left) / scale(), (event.clientY - rectangle.top) / scale()];
    }

    sheet.addEventListener('pointerdown', event => {
      if (event.pointerType === 'touch' && event.target !== box) return; // a finger beside the square moves the sheet
      const [x, y] = at(event);
      start = { x, y, moved: event.target === box ? { ...square } : null };
      sheet.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    sheet.addEventListener('pointermove', event => {
      if (!start) return;
      const [x, y] = at(event);
      const [dx, dy] = [x - start.x, y - start.y];
      if (start.moved) return set(start.moved.x + dx, start.moved.y + dy, start.moved.side);
      const side = Math.max(Math.abs(dx), Math.abs(dy), SMALLEST);
      set(dx < 0 ? start.x - side : start.x, dy < 0 ? start.y - side : start.y, side);
    });
    for (const end of ['pointerup', 'pointercancel']) sheet.addEventListener(end, () => { start = null; });
    zoom.addEventListener('input', () => {
      fit();
      const [x, y] = [(square.x + square.side / 2) * scale(), (square.y + square.side / 2) * scale()];
      view.scrollTo(x - view.clientWidth / 2, y - view.clientHeight / 2); // the square stays in view
    });
    size.addEventListener('input', () => {
      const more = size.value - square.side;
      set(square.x - more / 2, square.y - more / 2, square.side + more);
    });
    view.addEventListener('wheel', event => {
      event.preventDefault();
      const [x, y] = at(event);
      zoom.value = Number(zoom.value) - Math.sign(event.deltaY) / 2;
      fit();
      const rectangle = view.getBoundingClientRect();
      view.scrollTo(x * scale() - (event.clientX - rectangle.left), y * scale() - (event.clientY - rectangle.top));
    }, { passive: false });
    view.addEventListener('keydown', event => {
      const step = Math.max(1, Math.round(square.side / 20));
      const moves = { ArrowLeft: [-step, 0, 0], ArrowRight: [step, 0, 0], ArrowUp: [0, -step, 0],
        ArrowDown: [0, step, 0], '+': [-step, -step, 2 * step], '-': [step, step, -2 * step] };
      const [dx, dy, more] = moves[event.key] ?? [];
      if (dx === undefined) return;
      event.preventDefault();
      set(square.x + dx, square.y + dy, square.side + more);
    });
    made.addEventListener('click', event => {
      if (event.target.value === 'close') made.close();
      if (event.target.value === 'crop') crop(img, square).then(() => made.close());
    });
    addEventListener('resize', () => made.open && fit());

    return {
      open(source) {
        img.src = source.src;
        img.decode().then(() => {
          zoom.value = 1;
          made.showModal();
          [size.min, size.max] = [SMALLEST, Math.min(img.naturalWidth, img.naturalHeight)];
          const side = 0.6 * Math.min(img.naturalWidth, img.naturalHeight);
          set((img.naturalWidth - side) / 2, (img.naturalHeight - side) / 2, side);
          fit();
          view.focus();
        });
      },
    };
  }

  // Put the square in the picture's place, as if it had been uploaded: the server assesses it as any other.
  async function crop(img, { x, y, side }) {
    const canvas = Object.assign(document.createElement('canvas'), { width: side, height: side });
    canvas.getContext('2d').drawImage(img, x, y, side, side, 0, 0, side, side);
    const blob = await new Promise(resolve => canvas.toBlob(resolve, 'image/png'));
    const name = decodeURIComponent(img.src.split('/').pop()).replace(/\.\w+$/, '');
    const files = new DataTransfer();
    files.items.add(new File([blob], `${words('part_of', { name })}.png`, { type: 'image/png' }));
    document.querySelector('#picture button[aria-label="Remove Image"]').click();
    const input = await emptied();
    input.files = files.files;
    input.dispatchEvent(new Event('change', { bubbles: true }));
  }

  // Where a file can be put, once the former picture is gone: an input that stands beside one goes with it.
  async function emptied() {
    for (;;) {
      await new Promise(requestAnimationFrame);
      const input = document.querySelector('#picture input[type=file]');
      if (input && !picture()) return input;
    }
  }

  let closer;
  window.dermalertLookCloser = () => {
    if (!picture()) return;
    closer ??= dialog();
    closer.open(picture());
  };
})();
