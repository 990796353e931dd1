// Brings the live parts of a page up to date, every two seconds, until they are settled.
'use strict';

const EVERY_MS = 2000;

function watch(part) {
  let paused = false;
  const again = part.nextElementSibling;
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = 'Pause updates';
  button.addEventListener('click', () => {
    paused = !paused;
    button.textContent = paused ? 'Go on with updates' : 'Pause updates';
  });
  again.append(' ', button);

  const settle = () => {
    delete part.dataset.live;
    button.remove();
    // What can be done only while it goes on.
    for (const one of document.querySelectorAll('form[action$="/stop"]')) {
      one.closest('section').hidden = true;
    }
  };
  const look = async () => {
    if (!paused && !document.hidden) {
      try {
        const answer = await fetch(part.dataset.live, { redirect: 'error' });
        const text = answer.ok ? await answer.text() : '';
        const page = new DOMParser().parseFromString(text, 'text/html');
        const fresh = page.querySelector('.live');
        // A pause that began meanwhile counts.
        if (fresh && !paused) {
          part.replaceChildren(...fresh.childNodes);
          if (!('live' in fresh.dataset)) return settle();
        }
      } catch {
        // The service may be starting: look again.
      }
    }
    setTimeout(look, EVERY_MS);
  };
  look();
}

document.querySelectorAll('.live[data-live]').forEach(watch);
