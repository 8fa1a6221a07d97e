// The active page is in sight in a long sidebar.
document.addEventListener("DOMContentLoaded", () => {
  const scroll = document.querySelector(".sidebar-scroll");
  const current = scroll && scroll.querySelector(".current-page");
  if (current) scroll.scrollTop += current.getBoundingClientRect().top - scroll.clientHeight / 2;
});
