// The shop: views by the address, a cart, a form. It knows nothing of the tracker.
"use strict";

const byId = (id) => document.getElementById(id);
const NAME = document.title;

// Views: `#/` is the shop, `#/about` a page, `#/<product>` a product.

function show(focus) {
  if (location.hash && !location.hash.startsWith("#/")) return; // a part of this page
  const route = location.hash.slice(2);
  const product = document.querySelector(`[data-product="${CSS.escape(route)}"]`);
  const view = product ? "product" : route === "about" ? "about" : "";
  if (product) {
    byId("product-picture").replaceChildren(product.querySelector("svg").cloneNode(true));
    byId("product-picture").dataset.tint = product.dataset.tint;
    for (const part of ["price", "text"]) byId(`product-${part}`).textContent = product.querySelector(`.${part}`).textContent;
    byId("product-name").textContent = product.querySelector("h3").textContent;
  }
  for (const section of document.querySelectorAll("[data-view]")) section.hidden = section.dataset.view !== view;
  const heading = document.querySelector("[data-view]:not([hidden]) h1");
  document.title = view ? `${heading.textContent} - ${NAME}` : NAME;
  if (!focus) return;
  // As a new page would: begin at the top, and tell screen readers where one is.
  scrollTo({ top: 0, behavior: "instant" });
  (view ? heading : byId("main")).focus({ preventScroll: true });
}

document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#/"]');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  if (link.hash === location.hash) return;
  history.pushState(null, "", link.hash);
  show(true);
});
addEventListener("popstate", () => show(false));

// The cart, which lives as long as the page.

const cart = new Map();

byId("add").addEventListener("click", () => {
  const name = byId("product-name").textContent;
  cart.set(name, (cart.get(name) ?? 0) + 1);
  byId("cart-count").textContent = [...cart.values()].reduce((sum, count) => sum + count);
});

byId("cart").addEventListener("click", () => {
  const items = [...cart].map(([name, count]) => {
    const item = document.createElement("li");
    item.textContent = `${count} × ${name}`;
    return item;
  });
  byId("basket-items").replaceChildren(...items);
  byId("basket-empty").hidden = items.length > 0;
  byId("basket").showModal();
});
byId("basket-close").addEventListener("click", () => byId("basket").close());

// The form. It is never sent anywhere.

byId("letter").addEventListener("submit", (event) => {
  event.preventDefault();
  byId("thanks").textContent = "Thank you. No letter will come: this is a demo.";
});

show(false);
