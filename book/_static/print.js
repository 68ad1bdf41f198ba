// On paper the book is light, whatever the screen shows.
(() => {
  const root = document.documentElement;
  const paper = matchMedia("print");
  let ofScreen = null;  // the screen's theme, while the page is on paper

  const show = () => {
    if (ofScreen === null && root.dataset.theme === "dark") {
      ofScreen = root.dataset.theme;
      root.dataset.theme = "light";
    }
  };
  const restore = () => {
    if (ofScreen !== null) {
      root.dataset.theme = ofScreen;
      ofScreen = null;
    }
  };

  addEventListener("beforeprint", show);
  addEventListener("afterprint", restore);
  paper.addEventListener("change", () => (paper.matches ? show() : restore()));
})();
