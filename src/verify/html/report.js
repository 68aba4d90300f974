// What the page does beyond its tables and charts, which need no script: the theme, bringing a
// scheme forward, copying a command, saving the figures as a table.
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Storage may be denied to a file opened from disk; the choice then lasts as long as the page.
  const memory = {
    get: () => { try { return localStorage.getItem('fourfold-theme'); } catch { return null; } },
    set: (value) => { try { localStorage.setItem('fourfold-theme', value); } catch { /* lasts less */ } },
  };
  const themes = ['auto', 'light', 'dark'];
  const button = document.querySelector('.theme');
  const setTheme = (theme) => {
    root.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  };
  setTheme(themes.includes(memory.get()) ? memory.get() : 'auto');
  button.hidden = false;
  button.addEventListener('click', () => {
    const next = themes[(themes.indexOf(root.dataset.theme) + 1) % themes.length];
    setTheme(next);
    memory.set(next);
  });

  let pinned = null;
  const forward = (scheme) => {
    root.classList.toggle('focusing', scheme !== null);
    all('[data-k]').forEach((e) => e.classList.toggle('on', e.dataset.k === scheme));
  };
  const keys = all('[data-pick]');
  keys.forEach((key) => {
    key.addEventListener('mouseenter', () => forward(key.dataset.pick));
    key.addEventListener('mouseleave', () => forward(pinned));
    key.addEventListener('click', () => {
      pinned = pinned === key.dataset.pick ? null : key.dataset.pick;
      keys.forEach((k) => k.setAttribute('aria-pressed', String(k.dataset.pick === pinned)));
      forward(pinned);
    });
  });

  all('.command').forEach((line) => {
    const code = line.querySelector('code');
    const copy = document.createElement('button');
    copy.type = 'button';
    copy.textContent = 'Copy';
    copy.addEventListener('click', async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        copy.textContent = 'Copied';
      } catch {
        getSelection().selectAllChildren(code);
        copy.textContent = 'Selected';
      }
      setTimeout(() => { copy.textContent = 'Copy'; }, 1500);
    });
    line.append(copy);
  });

  const download = document.querySelector('.download');
  download.hidden = false;
  download.addEventListener('click', () => {
    const link = document.createElement('a');
    const csv = JSON.parse(document.getElementById('figures').textContent);
    link.href = URL.createObjectURL(new Blob([csv], { type: 'text/csv' }));
    link.download = 'fourfold-verify.csv';
    link.click();
    URL.revokeObjectURL(link.href);
  });
})();
