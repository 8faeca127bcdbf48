// Markdown of one block to HTML that is safe to insert. Raw HTML in a reply is shown as the text it is, and a
// picture becomes a link: fetching it would tell its server who reads. DOMPurify stands behind both.

import DOMPurify from 'dompurify';
import { Marked } from 'marked';

const ESCAPES: { readonly [char: string]: string } = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
};

const FORBIDDEN_TAGS = [
  'style',
  'form',
  'input',
  'button',
  'img',
  'svg',
  'math',
  'iframe',
  'video',
];

const markdown = new Marked({
  gfm: true,
  renderer: {
    html: ({ text }) => escape(text),
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    checkbox: ({ checked }) => `<span class="task" data-checked="${checked}"></span> `,
  },
});

DOMPurify.addHook('afterSanitizeAttributes', (node) => {
  if (node.tagName !== 'A') return;
  node.setAttribute('target', '_blank');
  node.setAttribute('rel', 'noopener noreferrer');
});

/** HTML of one block's Markdown. */
export function renderBlock(source: string): string {
  const html = markdown.parse(source, { async: false });
  return DOMPurify.sanitize(html, { FORBID_TAGS: FORBIDDEN_TAGS, FORBID_ATTR: ['style', 'id'] });
}

function escape(text: string): string {
  return text.replace(/[&<>"]/g, (char) => ESCAPES[char] ?? char);
}
